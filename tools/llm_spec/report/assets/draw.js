// Pictures are drawn when they come into sight, and again when colours change.
const FIGURES = {}; // kind -> (exhibit) => { data, layout }, filled by the scripts in kinds/
const PANELS = {}; // kind -> (element) => redraw, filled by them, too
const drawn = new Map(); // element -> redraw
const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false, showTips: false };

function merged(base, extra) {
  const result = { ...base };
  for (const [key, value] of Object.entries(extra)) {
    const plain = value && typeof value === "object" && !Array.isArray(value);
    result[key] = plain ? merged(base[key] ?? {}, value) : value;
  }
  return result;
}

function plot(element, { data, layout }) {
  return Plotly.react(element, data, merged(baseLayout(), layout), CONFIG);
}

function draw(element) {
  if (drawn.has(element)) return;
  const kind = element.dataset.draw;
  const panel = PANELS[kind];
  const redraw = panel
    ? panel(element)
    : () => plot(element, FIGURES[kind](exhibits[element.dataset.key]));
  drawn.set(element, redraw);
  redraw();
}

function redrawAll() {
  for (const redraw of drawn.values()) redraw();
}

const sight = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    draw(target);
  }
}, { rootMargin: "300px" });

function drawInSight(root = document) {
  if (window.Plotly) all("[data-draw]", root).forEach((element) => sight.observe(element));
}

function drawFirst() { // so that the first picture stands before anyone scrolls to it
  const first = all("[data-draw]").find((element) => element.offsetParent);
  if (first) draw(first);
}

function drawWhatPrints(printing) {
  if (printing) all("[data-draw]").filter((element) => element.offsetParent).forEach(draw);
  redrawAll();
}
