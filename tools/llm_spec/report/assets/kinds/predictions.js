// Bars of the likeliest next tokens, reshaped by the sampler's settings.
const SETTINGS = [
  { key: "temperature", name: "temperature", min: 0, max: 2, step: 0.05, value: 1, format: (v) => v.toFixed(2) },
  { key: "topP", name: "top-p", min: 0.05, max: 1, step: 0.01, value: 1, format: (v) => (v >= 1 ? "off" : v.toFixed(2)) },
  { key: "minP", name: "min-p", min: 0, max: 0.5, step: 0.01, value: 0, format: (v) => (v > 0 ? v.toFixed(2) : "off") },
  { key: "topK", name: "top-k", min: 0, max: 100, step: 1, value: 0, format: (v) => (v > 0 ? String(v) : "off") },
];
const BARS = 10;

function predictionFigure(it, settings) {
  const result = sampled(it, settings);
  const untouched = sampled(it, { temperature: 1, topK: 0, topP: 1, minP: 0 }).probabilities;
  const names = it.tokens.slice(0, BARS);
  const values = result.probabilities.slice(0, BARS);
  const y = names.map((_, at) => at);
  return {
    data: [
      { type: "bar", orientation: "h", x: values, y, text: values.map((value) => label(percent(value))), width: 0.84,
        textposition: "outside", cliponaxis: false, marker: { color: palette()[0] }, hoverinfo: "text",
        hovertext: names.map((name, at) => `‹${label(name)}› ${percent(values[at])}, as the model gave it ${percent(untouched[at])}`) },
      { type: "bar", orientation: "h", x: untouched.slice(0, BARS), y, hoverinfo: "skip", width: 0.84,
        marker: { color: "rgba(0,0,0,0)", line: { color: colour("soft"), width: 1 } } },
    ],
    layout: {
      height: 300, barmode: "overlay", margin: { l: 8, r: 52, t: 4, b: 8 },
      xaxis: { range: [0, 1], tickformat: ".0%", nticks: 5 },
      yaxis: { autorange: "reversed", showgrid: false, ...ticks(names) },
    },
  };
}

function predictionWords(it, settings) {
  const { probabilities, candidates } = sampled(it, settings);
  const size = it.logits.length + (it.tail?.counts ?? []).reduce((sum, count) => sum + count, 0);
  return `‹${it.tokens[0]}› ${percent(probabilities[0])}; ${candidates.toLocaleString("en")} of ${size.toLocaleString("en")} tokens can be drawn`;
}

function predictionList(it, settings) {
  const { probabilities } = sampled(it, settings);
  const bars = it.tokens.slice(0, BARS).map((text, at) => `‹${text}› ${percent(probabilities[at])}`);
  return `Next tokens after ${it.prompt}: ${bars.join(", ")}`;
}

PANELS.predictions = (element) => {
  const prompts = [...new Map(recorded(element.dataset.key).reverse().map((it) => [it.prompt, it])).values()].reverse();
  const settings = Object.fromEntries(SETTINGS.map(({ key, value }) => [key, value]));
  const views = prompts.map((it) => {
    const picture = make("div", { class: "drawing", role: "img" });
    const says = make("p", { class: "readout" });
    const view = make("figure", { class: "prediction" }, make("h4", {}, make("bdi", {}, `${it.prompt} …`)), picture, says);
    return { it, picture, says, view };
  });
  const redraw = () => {
    for (const { it, picture, says } of views) {
      plot(picture, predictionFigure(it, settings));
      says.textContent = predictionWords(it, settings);
      picture.setAttribute("aria-label", predictionList(it, settings));
    }
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; redraw(); });
  };
  const sliders = SETTINGS.map((setting) => slider({ ...setting, onchange: (value) => { settings[setting.key] = value; soon(); } }));
  const reset = make("button", { type: "button", class: "quiet", onclick: () => {
    SETTINGS.forEach(({ key, value }, at) => { settings[key] = value; sliders[at].set(value); });
    redraw();
  } }, "as the model gave it");
  element.prepend(
    make("div", { class: "controls sampler" }, ...sliders.map((one) => one.element), reset),
    make("p", { class: "small" }, "Filters act on the model's own probabilities, in this order; temperature on what they leave. Outlines: before any of it."),
    make("div", { class: "prompts" }, ...views.map((one) => one.view)),
  );
  return redraw;
};
