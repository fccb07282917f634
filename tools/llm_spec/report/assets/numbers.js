// Every picture as a table, for those who cannot see it or want the figures; built when unfolded.
const TABLES = {}; // kind -> (exhibit) => [columns, rows], filled by the scripts in kinds/

function numberTable([columns, rows], title) {
  const cell = (value) => (typeof value === "number" || value == null
    ? make("td", { class: "number" }, short(value)) : make("td", {}, token(value)));
  const body = rows.map(([first, ...rest]) => make("tr", {},
    make("th", { scope: "row" }, typeof first === "number" ? short(first) : token(String(first))), ...rest.map(cell)));
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, token(String(name)))));
  return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function offerNumbers() {
  document.addEventListener("toggle", ({ target }) => {
    if (!target.dataset.numbers || target.childElementCount > 1) return;
    const it = exhibits[target.dataset.numbers];
    target.append(numberTable(TABLES[it.kind](it), `The numbers of ${it.title}`));
  }, true);
}
