// The order of things when the page opens: what can be read works at once, pictures follow.
async function start() {
  if (!("DecompressionStream" in window)) { // the page stays what it is without scripts
    document.querySelector(".masthead").prepend(make("p", { class: "notice" }, "This browser is too old to show the drawn pictures, the claims of each section and the ledger: take a newer one, or read results.json, or run pytest with --ledger."));
    return;
  }
  document.documentElement.classList.add("scripted");
  watchTheme(drawWhatPrints);
  offerSubjects();
  all("[data-matrix]").forEach(offerMatrix);
  const bytes = document.getElementById("show-bytes");
  bytes?.addEventListener("change", () => bytes.closest(".panel").classList.toggle("with-bytes", bytes.checked));
  for (const wide of all("[data-from-the-end]")) wide.scrollLeft = wide.scrollWidth; // its last column is the answer
  await unpackLists();
  const filters = offerFilters();
  printLedger();
  addEventListener("hashchange", () => followLink(filters));
  followLink(filters);
  await loadExhibits(); // first: what is unfolded is drawn as soon as plotly is there
  await loadPlotly();
  offerNumbers();
  drawInSight();
  drawFirst();
}

start();
