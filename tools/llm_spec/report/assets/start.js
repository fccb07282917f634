// The order of things when the page opens: what can be read works at once, pictures follow.
async function start() {
  document.documentElement.classList.add("scripted");
  watchTheme(drawWhatPrints);
  offerSubjects();
  const filters = offerFilters();
  addEventListener("hashchange", () => followLink(filters));
  followLink(filters);
  all("[data-matrix]").forEach(offerMatrix);
  const bytes = document.getElementById("show-bytes");
  bytes?.addEventListener("change", () => bytes.closest(".panel").classList.toggle("with-bytes", bytes.checked));
  for (const wide of all("[data-from-the-end]")) wide.scrollLeft = wide.scrollWidth; // its last column is the answer
  if (!("DecompressionStream" in window)) {
    document.querySelector(".masthead").append(make("p", { class: "notice" }, "This browser is too old to draw the pictures; the ledger and the tables are complete."));
    return;
  }
  await Promise.all([loadExhibits(), loadPlotly()]);
  offerNumbers();
  drawInSight();
}

start();
