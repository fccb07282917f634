// One head at a time: the whole map, and the sentence as one token sees it.
function attentionSentence(from, to, weight) {
  return `‹${from}› attends to ‹${to}›: ${percent(weight)}`;
}

// Colour follows the square root, since most weights are small; the scale names true values.
function attentionFigure(it, map, width) {
  const tokens = it.tokens;
  const root = (value) => (value == null ? null : Math.sqrt(Math.max(0, value)));
  const steps = [0, 0.01, 0.1, 0.25, 0.5, 1];
  const names = tokens.map(label);
  return {
    data: [{
      type: "heatmap", z: map.map((row) => row.map(root)), zmin: 0, zmax: 1, colorscale: sequential(),
      xgap: 1, ygap: 1, hoverinfo: "text",
      text: map.map((row, query) => row.map((weight, key) => attentionSentence(names[query], names[key], weight))),
      colorbar: { thickness: 10, outlinewidth: 0, tickvals: steps.map(Math.sqrt), ticktext: steps.map(percent), len: 0.9 },
    }],
    layout: {
      height: Math.max(280, Math.min(width, 640)),
      xaxis: { side: "top", showgrid: false, title: { text: "attends to" }, ...ticks(tokens), tickangle: -50 },
      yaxis: { autorange: "reversed", showgrid: false, title: { text: "token" }, ...ticks(tokens) },
    },
  };
}

function sentenceView(it, state, redraw) {
  const words = make("p", { class: "stream", role: "group", "aria-label": "The sentence; choose the token that looks back" });
  const buttons = it.tokens.map((text, at) => {
    const button = make("button", { type: "button", onclick: () => { state.query = at; redraw(); } }, token(text));
    words.append(button);
    return button;
  });
  return { words, buttons };
}

// An induction head has something to find only where a text repeats itself.
function mostRepetitive(maps) {
  const repeats = maps.map(({ tokens }) => tokens.length - new Set(tokens).size);
  return repeats.indexOf(Math.max(...repeats));
}

function strongest(row, tokens, query) {
  return row.map((weight, key) => [weight ?? 0, key]).filter(([weight]) => weight > 0)
    .sort((a, b) => b[0] - a[0]).slice(0, 3)
    .map(([weight, key]) => attentionSentence(tokens[query], tokens[key], weight)).join("; ");
}

PANELS.attention = (element) => {
  const maps = recorded(element.dataset.key);
  const scores = mergedScores(recorded(element.dataset.heads));
  const state = { text: 0, layer: 0, head: 0, query: null };
  if (!maps.length) return headsOnly(element, scores);
  const firstLayer = (it) => Math.max(0, it.weights.findIndex(Boolean));
  state.layer = firstLayer(maps[0]);
  const picture = make("div", { class: "drawing", role: "img" });
  const sentence = make("div", { class: "sentence" });
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const title = make("h4", {});
  const layerSlider = slider({ name: "layer", min: 0, max: 1, value: 0, onchange: (value) => { state.layer = value; redraw(); } });
  const headSlider = slider({ name: "head", min: 0, max: 1, value: 0, onchange: (value) => { state.head = value; redraw(); } });
  layerSlider.element.dataset.role = "layer";
  headSlider.element.dataset.role = "head";
  const texts = picker(maps.map((it) => it.title), "text", (at) => {
    state.text = at; state.query = null; state.layer = firstLayer(maps[at]); build();
  });
  let view = null;

  function build() {
    view = sentenceView(maps[state.text], state, () => redraw());
    sentence.replaceChildren(view.words);
    redraw();
  }
  function redraw() {
    const it = maps[state.text];
    const heads = it.weights[state.layer]?.length ?? 0;
    state.head = Math.min(state.head, Math.max(0, heads - 1));
    layerSlider.input.max = it.weights.length - 1;
    layerSlider.set(state.layer);
    headSlider.input.max = Math.max(0, heads - 1);
    headSlider.set(state.head);
    title.textContent = `Layer ${state.layer}, head ${state.head}`;
    const map = it.weights[state.layer]?.[state.head];
    overview?.mark(state.layer, state.head);
    picture.hidden = sentence.hidden = !map;
    if (!map) { readout.textContent = `Layer ${state.layer} has no attention to show.`; return; }
    picture.setAttribute("aria-label", `Attention weights of layer ${state.layer}, head ${state.head}`);
    plot(picture, attentionFigure(it, map, picture.clientWidth || 560));
    const query = state.query ?? it.tokens.length - 1;
    view.buttons.forEach((button, at) => {
      button.style.setProperty("--p", Math.sqrt(map[query][at] ?? 0));
      button.setAttribute("aria-pressed", at === query);
    });
    readout.textContent = strongest(map[query], it.tokens, query) || "It attends to nothing.";
  }
  function jump(layer, head, score) {
    if (score === "induction" && state.text !== mostRepetitive(maps)) {
      state.text = mostRepetitive(maps); state.query = null;
      texts.select.value = state.text;
      view = sentenceView(maps[state.text], state, () => redraw());
      sentence.replaceChildren(view.words);
    }
    state.layer = layer; state.head = head;
    redraw();
    picture.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }
  const overview = scores ? headsOverview(scores, jump) : null;
  element.prepend(
    make("div", { class: "controls" }, ...(maps.length > 1 ? [texts.element] : []), layerSlider.element, headSlider.element),
    make("div", { class: "two" },
      make("div", {}, title, picture, sentence, readout),
      ...(overview ? [overview.element] : [])),
  );
  build();
  return () => { redraw(); overview?.redraw(); };
};
