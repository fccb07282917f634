// What fits the reader's own machine, and how fast it can be at most.
const GIB = 2 ** 30; // memory is sold as GB and means this

function fitVerdict(model, at, { memory, bandwidth, share }) {
  const need = model.weights_bytes + (model.kv_bytes[at] ?? 0) + (model.working_bytes ?? 0);
  const room = memory * share;
  const ceiling = (bytes) => (bandwidth > 0 ? bandwidth / bytes : null);
  return { need, room, fits: need <= room, empty: ceiling(model.read_bytes), filled: ceiling(model.read_bytes + (model.kv_bytes[at] ?? 0)) };
}

function fitTable(it, at, machine) {
  const rows = it.models.map((model) => {
    const { need, room, fits, empty, filled } = fitVerdict(model, at, machine);
    const speed = (ceiling) => make("td", { class: "number" }, fits && ceiling ? `≤ ${short(Number(ceiling.toPrecision(3)))}` : "–");
    return make("tr", { class: fits ? "met" : "missed" },
      make("th", { scope: "row" }, token(model.name), " ", make("span", { class: "small" }, /^[\d.]+$/.test(model.bits) ? `${model.bits} bits` : String(model.bits ?? ""))),
      make("td", {}, make("span", { class: "rate", style: { "--p": Math.min(1, need / room) } }), quantity(need)),
      make("td", {}, make("span", { "aria-hidden": "true" }, fits ? "✓ " : "✗ "), fits ? "fits" : "too large"),
      speed(empty), speed(filled));
  });
  const context = `${it.contexts[at].toLocaleString("en")} tokens`;
  const head = ["model", `needs, with ${context}`, "", "tokens per second, empty cache", `tokens per second, ${context} cached`]
    .map((name) => make("th", { scope: "col" }, name || make("span", { class: "unseen" }, "fits")));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

PANELS.fit = (element) => {
  const it = exhibits[element.dataset.key];
  const machine = it.machine ?? {};
  const field = (name, unit, value) => {
    const input = make("input", { type: "number", min: "0.1", step: "any", value, inputmode: "decimal" });
    input.addEventListener("input", () => redraw());
    return { input, element: make("label", { class: "field" }, make("span", {}, name), input, make("span", {}, unit)) };
  };
  const memoryField = field("memory", "GB", machine.memory ? Number((machine.memory / GIB).toPrecision(3)) : 36);
  const bandwidthField = field("bandwidth", "GB/s", machine.bandwidth ? Number((machine.bandwidth / 1e9).toPrecision(4)) : 150);
  const contexts = picker(it.contexts.map((count) => `${count.toLocaleString("en")} tokens`), "context", () => redraw());
  const chips = it.chips ?? [];
  const chip = picker([machine.name ?? "your own figures", ...chips.map((one) => one.name)], "chip", (at) => {
    const one = at === 0 ? machine : chips[at - 1];
    if (one.bandwidth) bandwidthField.input.value = Number((one.bandwidth / 1e9).toPrecision(4));
    const size = Array.isArray(one.memory) ? one.memory.at(-1) : one.memory;
    if (size) memoryField.input.value = Number((size / GIB).toPrecision(3));
    redraw();
  });
  const says = make("p", { class: "readout", "aria-live": "polite" });
  const slot = make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "What fits" });
  element.append(
    make("div", { class: "controls" }, chip.element, memoryField.element, bandwidthField.element, contexts.element), says, slot);
  function redraw() {
    const given = { memory: Number(memoryField.input.value) * GIB, bandwidth: Number(bandwidthField.input.value) * 1e9, share: it.usable_share ?? 1 };
    if (!(given.memory > 0)) { says.textContent = "Give the memory in GB."; slot.replaceChildren(); return; }
    const at = Number(contexts.select.value);
    const fitting = it.models.filter((model) => fitVerdict(model, at, given).fits);
    says.textContent = `${fitting.length} of ${it.models.length} fit in ${quantity(given.memory * given.share)} (${short(given.memory * given.share / GIB)} GiB), the ${percent(given.share)} of the memory that may hold a model.`;
    slot.replaceChildren(fitTable(it, at, given));
  }
  return redraw;
};
