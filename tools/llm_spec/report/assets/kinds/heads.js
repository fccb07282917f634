// All heads of a model at once, by one score at a time; a click goes to the head.
const SCORES = {
  entropy: "how widely it looks",
  sink: "weight on the first token",
  "previous token": "weight on the token just before",
  previous: "weight on the token just before",
  induction: "weight on what followed the same token earlier",
};

function headsFigure(it, score) {
  const rows = it.scores[score].map((row) => row ?? []);
  const width = Math.max(1, ...rows.map((row) => row.length));
  const z = rows.map((row) => Array.from({ length: width }, (_, at) => row[at] ?? null));
  const unit = it.units?.[score];
  const [low, high] = extent(z);
  return {
    data: [{
      type: "heatmap", z, xgap: 1, ygap: 1, colorscale: sequential(), hoverinfo: "text",
      zmin: Math.min(0, low), zmax: unit ? high || 1 : Math.max(1, high),
      text: z.map((row, layer) => row.map((value, head) =>
        (value == null ? `layer ${layer}: no attention` : `layer ${layer}, head ${head}: ${unit ? `${short(value)} ${label(unit)}` : percent(value)}`))),
      colorbar: { thickness: 10, outlinewidth: 0, len: 0.9, tickformat: unit ? "" : ".0%", title: { text: label(unit ?? ""), side: "right" } },
    }],
    layout: {
      height: Math.min(640, 90 + 16 * rows.length),
      xaxis: { title: { text: "head" }, showgrid: false, dtick: width > 16 ? 4 : 1, fixedrange: true },
      yaxis: { title: { text: "layer" }, showgrid: false, autorange: "reversed", dtick: rows.length > 16 ? 4 : 1, fixedrange: true },
    },
  };
}

// Scores that were recorded apart, as one; of those named alike, the first.
function mergedScores(recordings) {
  if (!recordings.length) return null;
  const [first, ...others] = recordings;
  const alike = others.filter((it) => it.layers === first.layers && it.heads === first.heads);
  return { ...first,
    scores: Object.assign({}, ...[...alike, first].map((it) => it.scores)),
    units: Object.assign({}, ...[...alike, first].map((it) => it.units ?? {})) };
}

function topHeads(it, score, count = 4) {
  const found = it.scores[score].flatMap((row, layer) => (row ?? []).map((value, head) => ({ value, layer, head })));
  return found.filter(({ value }) => value != null).sort((a, b) => b.value - a.value).slice(0, count);
}

function headsOverview(it, jump) {
  const names = Object.keys(it.scores);
  let score = names.find((name) => name.startsWith("previous")) ?? names[0];
  const marked = { layer: null, head: null };
  const picture = make("div", { class: "drawing heads", role: "img" });
  const list = make("p", { class: "small" });
  const about = make("p", { class: "small" });
  const picked = () => (marked.layer == null ? [] : [{
    type: "rect", x0: marked.head - 0.5, x1: marked.head + 0.5, y0: marked.layer - 0.5, y1: marked.layer + 0.5,
    line: { color: colour("c-orange"), width: 3 },
  }]);
  async function redraw() {
    about.textContent = SCORES[score] ? `${score}: ${SCORES[score]}.` : "";
    picture.setAttribute("aria-label", `All heads by ${score}`);
    const figure = headsFigure(it, score);
    figure.layout.shapes = picked();
    plot(picture, figure);
    list.replaceChildren("Strongest: ", ...topHeads(it, score).map(({ layer, head, value }) =>
      make("button", { type: "button", class: "quiet", onclick: () => jump(layer, head, score) },
        `layer ${layer}, head ${head} (${it.units?.[score] ? short(value) : percent(value)})`)));
    if (picture.dataset.listening) return;
    picture.dataset.listening = "yes";
    picture.on("plotly_click", ({ points: [{ x, y }] }) => jump(y, x, score));
  }
  const element = make("div", { class: "overview" },
    make("h4", {}, "All heads"),
    choice(names, score, "Score of the heads", (name) => { score = name; redraw(); }), about, picture, list);
  return {
    element, redraw,
    mark(layer, head) {
      Object.assign(marked, { layer, head });
      if (!picture.dataset.listening) { if (picture.isConnected) redraw(); return; }
      Plotly.relayout(picture, { shapes: picked() });
    },
  };
}

function headsOnly(element, scores) {
  const overview = headsOverview(scores, () => {});
  element.prepend(overview.element);
  return overview.redraw;
}
