// The tokens as they came; pointing at one tells what else it might have been.
function stepReadout(readout, step, at) {
  const rows = [{ token: step.token, probability: step.probability, chosen: true }, ...(step.runners_up ?? [])]
    .filter((one, i, list) => i === 0 || one.token !== list[0].token);
  readout.replaceChildren(
    make("p", {}, `Step ${at + 1}${step.ms == null ? "" : `, ${short(step.ms)} ms`}`),
    make("ol", { class: "runners" }, ...rows.map((one) => make("li", { class: one.chosen ? "chosen" : "", style: { "--p": one.probability } },
      token(one.token), make("span", { class: "number" }, percent(one.probability))))),
  );
}

function timingFigure(steps) {
  return curve({ x: steps.map((_, at) => at + 1), series: { "time per step": steps.map((step) => step.ms ?? null) }, x_axis: "step", y_axis: "ms" });
}

PANELS.generation = (element) => {
  const [it] = recorded(element.dataset.key);
  const readout = element.querySelector(".readout");
  for (const button of all("[data-step]", element)) {
    const at = Number(button.dataset.step);
    for (const event of ["pointerenter", "focus", "click"]) {
      button.addEventListener(event, () => stepReadout(readout, it.steps[at], at));
    }
  }
  const unsure = it.steps.reduce((least, step, at) => (step.probability < it.steps[least].probability ? at : least), 0);
  if (it.steps.length) stepReadout(readout, it.steps[unsure], unsure);
  const timing = element.querySelector("[data-timing]");
  return () => {
    if (!timing) return;
    const figure = timingFigure(it.steps);
    figure.layout.height = 200;
    plot(timing, figure);
  };
};
