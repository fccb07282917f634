// Filters of the ledger, and links to single claims.
function offerFilters() {
  const form = document.getElementById("filters");
  let rows = null;
  const filter = () => {
    putInLedger();
    rows ??= all(".ledger > li").map((row) => ({
      row,
      text: row.textContent.toLowerCase(),
      results: all("tr[data-verdict]", row).map(({ dataset }) => ({ verdict: dataset.verdict, subjects: dataset.subjects.split("\n") })),
    }));
    const { experiment, verdict, subject, words } = Object.fromEntries(new FormData(form));
    let count = 0;
    for (const { row, text, results } of rows) {
      const plain = verdict && verdict !== "corrections";
      const matches = results.some((result) => (!subject || result.subjects.includes(subject)) && (!plain || result.verdict === verdict));
      const visible = matches && (!experiment || row.dataset.experiment === experiment)
        && (verdict !== "corrections" || "corrects" in row.dataset)
        && text.includes(words.trim().toLowerCase());
      row.hidden = !visible;
      count += visible;
    }
    document.getElementById("filtered").textContent = `${count} claim${count === 1 ? "" : "s"}`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  return { reset() { form.reset(); filter(); } };
}

function putInLedger() {
  putIn((list) => list.closest("#ledger"));
}

// Paper cannot be unfolded: the ledger is printed, though each of its claims stays as it is.
function printLedger() {
  const whole = document.querySelector("#ledger details");
  let isOpen = whole.open;
  addEventListener("beforeprint", () => {
    isOpen = whole.open;
    whole.open = true;
    putInLedger();
  });
  addEventListener("afterprint", () => { whole.open = isOpen; });
}

function followLink(filters) {
  const id = decodeURIComponent(location.hash.slice(1));
  putIn((list, html) => html.includes(`id="${id}"`));
  const target = document.getElementById(id);
  if (!target) return;
  if (!target.matches(":target")) location.replace(location.hash); // it was put in after the browser looked for it
  if (target.matches(".ledger > li") && target.hidden) filters.reset();
  if (target.matches(".ledger > li, .claim")) {
    for (const folded of all("details", target).slice(0, 1)) folded.open = true;
  }
  if (target.id === "ledger") target.querySelector("details").open = true;
  for (let folded = target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  holdInSight(target);
}

// Pictures above the target grow when they are drawn: follow it until the reader moves on.
function holdInSight(target, patience = 3000) {
  const align = () => target.scrollIntoView();
  const growth = new ResizeObserver(align);
  growth.observe(document.body);
  const leave = () => growth.disconnect();
  for (const event of ["wheel", "touchstart", "pointerdown", "keydown"]) {
    addEventListener(event, leave, { once: true, passive: true });
  }
  setTimeout(leave, patience);
  align();
}
