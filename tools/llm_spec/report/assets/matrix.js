// Laws by models: a cell's words on hover and focus, arrow keys from cell to cell, three filters.
function offerMatrix(element) {
  const form = element.querySelector("form");
  const table = element.querySelector("table");
  const readout = element.querySelector(".readout");
  const laws = all("thead a", table);
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, name: row.cells[0].textContent, cells: [...row.cells].slice(1) }));
  let law = "";
  let at = null; // the cell that Tab reaches: one of them, not thousands

  function tell(cell) {
    const { name } = rows.find(({ row }) => row === cell.parentElement);
    const link = laws[cell.cellIndex - 1];
    readout.replaceChildren(token(name), ` · ${link.textContent} ${link.title}: `, make("strong", {}, cell.dataset.says ?? "not checked"));
    const { opens } = cell.dataset;
    if (opens) readout.append(" ", make("a", { href: `#${opens}` }, "by setting and prompt length"));
  }
  function reach(cell) {
    at?.removeAttribute("tabindex");
    at = cell;
    at?.setAttribute("tabindex", 0);
  }
  const shows = (cell) => !cell.parentElement.hidden && !cell.hidden;
  function filter() {
    const { model, law: picked, kind } = Object.fromEntries(new FormData(form));
    const kinds = kind ? kind.split(" ") : null;
    let count = 0;
    if (picked !== law) {
      law = picked;
      for (const row of table.rows) {
        [...row.cells].slice(1).forEach((cell, index) => { cell.hidden = law !== "" && index !== Number(law); });
      }
      table.classList.toggle("one-law", law !== "");
    }
    for (const { row, name, cells } of rows) {
      const asked = law === "" ? cells : [cells[Number(law)]];
      row.hidden = !name.toLowerCase().includes(model.trim().toLowerCase())
        || Boolean(kinds && !asked.some((cell) => kinds.includes(cell.className)));
      count += !row.hidden;
    }
    element.querySelector("output").textContent = `${count} model${count === 1 ? "" : "s"}`;
    if (!at || !shows(at)) reach(rows.flatMap(({ cells }) => cells).find(shows) ?? null);
  }
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  table.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.target !== at) return;
    event.preventDefault();
    const visible = rows.filter(({ row }) => !row.hidden);
    const down = visible.findIndex(({ row }) => row === at.parentElement) + step[0];
    const next = visible[down]?.cells[at.cellIndex - 1 + step[1]];
    if (next && shows(next)) { reach(next); next.focus(); }
  });
  table.addEventListener("focusin", ({ target }) => { if (target.matches("td")) tell(target); });
  table.addEventListener("pointerover", ({ target }) => { if (target.matches("td")) tell(target); });
  table.addEventListener("click", ({ target }) => { if (target.matches("td")) { reach(target); target.focus(); } });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
