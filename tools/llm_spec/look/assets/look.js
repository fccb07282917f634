// One page of one text, or of two: attention maps and the generated tokens are drawn here.
async function unpackedNumbers(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const view = new DataView(await new Response(stream).arrayBuffer());
  return Uint16Array.from({ length: view.byteLength / 2 }, (_, at) => view.getUint16(2 * at, true));
}

// Each text's layers, each with a function that gives the weight of (head, query, key).
function withMaps(data, numbers) {
  let start = 0;
  for (const text of data.texts) {
    for (const layer of text.attention) {
      if (!layer) continue;
      const { heads, queries, keys } = layer;
      const from = start;
      layer.weight = (head, query, key) => numbers[from + (head * queries + query) * keys + key] / data.unit;
      layer.labels = Array.from({ length: keys }, (_, key) => (layer.sink && key === keys - 1 ? "(sink)"
        : layer.inOrder ? text.tokens[key] : `key ${key}`));
      start += heads * queries * keys;
    }
  }
  return data;
}

// Lightness carries the weight's square root, since most weights are small.
function shades() {
  const mix = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  mix.canvas.width = 256; mix.canvas.height = 1;
  const gradient = mix.createLinearGradient(0, 0, 256, 0);
  for (const [at, name] of sequential()) gradient.addColorStop(at, name);
  mix.fillStyle = gradient;
  mix.fillRect(0, 0, 256, 1);
  const pixels = mix.getImageData(0, 0, 256, 1).data;
  return (weight) => pixels.subarray(4 * Math.round(255 * Math.sqrt(Math.min(1, weight))));
}

function paint(canvas, layer, head, shade) {
  canvas.width = layer.keys; canvas.height = layer.queries;
  const context = canvas.getContext("2d");
  const image = context.createImageData(layer.keys, layer.queries);
  let at = 0;
  for (let query = 0; query < layer.queries; query += 1) {
    for (let key = 0; key < layer.keys; key += 1) {
      const pixel = shade(layer.weight(head, query, key));
      for (let part = 0; part < 4; part += 1) image.data[at++] = pixel[part];
    }
  }
  context.putImageData(image, 0, 0);
}

function cut(text, most) {
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : text;
}

// The whole map, with the tokens beside and above it where they can be read.
function paintLarge(canvas, layer, head, shade, tokens, query) {
  const width = Math.min(canvas.parentElement.clientWidth || 320, 576);
  const margin = 84;
  const cell = (width - margin) / layer.keys;
  const height = margin + cell * layer.queries;
  const dense = devicePixelRatio || 1;
  canvas.width = width * dense; canvas.height = height * dense;
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  context.scale(dense, dense);
  const map = document.createElement("canvas");
  paint(map, layer, head, shade);
  context.imageSmoothingEnabled = false;
  context.drawImage(map, margin, margin, cell * layer.keys, cell * layer.queries);
  context.fillStyle = colour("ink");
  context.font = `${Math.max(8, Math.min(12, cell))}px ${colour("mono")}`;
  context.textBaseline = "middle";
  const every = Math.max(1, Math.ceil(9 / cell));
  tokens.forEach((text, at) => {
    if (at % every) return;
    context.textAlign = "right";
    context.fillText(cut(text, 11), margin - 4, margin + (at + 0.5) * cell);
  });
  layer.labels.forEach((text, at) => {
    if (at % every) return;
    context.save();
    context.translate(margin + (at + 0.5) * cell, margin - 4);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(cut(text, 11), 0, 0);
    context.restore();
  });
  context.strokeStyle = colour("line");
  context.strokeRect(margin, margin, cell * layer.keys, cell * layer.queries);
  context.strokeStyle = colour("c-orange");
  context.lineWidth = 2;
  context.strokeRect(margin, margin + query * cell, cell * layer.keys, cell);
  return { margin, cell, width };
}

function lookedAt(layer, head, query, token) {
  const found = layer.labels.map((label, key) => [layer.weight(head, query, key), label])
    .filter(([weight]) => weight > 0).sort((a, b) => b[0] - a[0]).slice(0, 4);
  const told = found.map(([weight, label]) => `‹${label}› ${percent(weight)}`).join(", ");
  return `‹${token}› looks at ${told || "nothing"}.`;
}

// `state` is shared by both texts, so that the same head is seen on both; `choose` redraws both.
function offerAttention(element, text, state, choose) {
  if (!text.attention.some(Boolean)) return { paintAll() {}, show() {} };
  const tokens = text.tokens;
  let looking = tokens.length - 1;
  const grid = make("div", { class: "heads-of", role: "group", "aria-label": "Every head of every layer", tabindex: 0 });
  const thumbs = [];
  text.attention.forEach((layer, number) => {
    const row = make("div", {});
    for (let head = 0; head < (layer?.heads ?? 0); head += 1) {
      const button = make("button", { type: "button", class: "thumb", "aria-label": `layer ${number}, head ${head}`,
        title: `layer ${number}, head ${head}`, onclick: () => choose(number, head) },
      make("canvas", {}));
      thumbs.push({ button, layer, number, head });
      row.append(button);
    }
    grid.append(make("span", {}, `layer ${number}`), layer ? row : make("div", {}, "no attention to show"));
  });
  const title = make("h4", {});
  const canvas = make("canvas", { class: "large", role: "img" });
  const words = make("p", { class: "stream", role: "group", "aria-label": "Choose the token that looks" });
  const buttons = tokens.map((text_, at) => {
    const button = make("button", { type: "button", onclick: () => { looking = at; show(); } }, token(text_));
    words.append(button);
    return button;
  });
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const hint = make("p", { class: "readout small" }, "Point into the map to read a weight.");
  const large = make("div", {}, title, canvas, hint);
  element.replaceChildren(make("div", { class: "one-head" }, large,
    make("div", { class: "sentence" }, words, readout, grid)));
  let shade = shades();
  let place = null;

  function show() {
    const layer = text.attention[state.layer];
    const shown = Boolean(layer) && state.head < layer.heads;
    canvas.hidden = !shown;
    if (!shown) { title.textContent = `Layer ${state.layer} has no attention to show.`; return; }
    title.textContent = `Layer ${state.layer}, head ${state.head}`;
    canvas.setAttribute("aria-label", `Attention of layer ${state.layer}, head ${state.head}`);
    place = paintLarge(canvas, layer, state.head, shade, tokens, looking);
    for (const { button, number, head } of thumbs) {
      button.setAttribute("aria-pressed", number === state.layer && head === state.head);
    }
    buttons.forEach((button, key) => {
      const weight = layer.inOrder ? layer.weight(state.head, looking, key) : 0;
      button.style.setProperty("--p", Math.sqrt(weight));
      button.setAttribute("aria-pressed", key === looking);
    });
    readout.textContent = lookedAt(layer, state.head, looking, tokens[looking]);
  }
  canvas.addEventListener("pointermove", (event) => {
    const scale = place.width / canvas.clientWidth;
    const key = Math.floor((event.offsetX * scale - place.margin) / place.cell);
    const query = Math.floor((event.offsetY * scale - place.margin) / place.cell);
    const layer = text.attention[state.layer];
    if (key < 0 || query < 0 || key >= layer.keys || query >= layer.queries) return;
    hint.textContent = `‹${tokens[query]}› looks at ‹${layer.labels[key]}›: ${percent(layer.weight(state.head, query, key))}`;
  });
  function paintAll() {
    shade = shades();
    for (const { button, layer, head } of thumbs) paint(button.firstChild, layer, head, shade);
  }
  return { paintAll, show };
}

function offerMaps(texts) {
  const state = { layer: Math.max(0, texts[0].attention.findIndex(Boolean)), head: 0 };
  const choose = (layer, head) => { Object.assign(state, { layer, head }); panels.forEach((panel) => panel.show()); };
  const panels = all("[data-attention]").map((element) => offerAttention(element, texts[element.dataset.attention], state, choose));
  const redraw = () => panels.forEach((panel) => { panel.paintAll(); panel.show(); });
  redraw();
  return redraw;
}

function offerSteps(element, steps) {
  const readout = element.querySelector(".readout");
  if (!readout || !steps.length) return;
  const tell = (at) => readout.replaceChildren(
    make("p", {}, `Token ${at + 1}`),
    make("ol", { class: "runners" }, ...steps[at].map((one, place) => make("li",
      { class: place === 0 ? "chosen" : "", style: { "--p": one.probability } },
      token(one.token), make("span", { class: "number" }, percent(one.probability))))),
  );
  for (const button of all("[data-step]", element)) {
    const at = Number(button.dataset.step);
    for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, () => tell(at));
  }
  tell(steps.reduce((least, step, at) => (step[0].probability < steps[least][0].probability ? at : least), 0));
}

async function start() {
  document.documentElement.classList.add("scripted");
  let redraw = () => {};
  watchTheme(() => redraw());
  if (!("DecompressionStream" in window)) {
    document.querySelector(".masthead").append(make("p", { class: "notice" }, "This browser is too old to draw attention maps; everything else is complete."));
    return;
  }
  const data = withMaps(JSON.parse(await unpack("data-look")), await unpackedNumbers("data-maps"));
  all("[data-generated]").forEach((element) => offerSteps(element, data.texts[element.dataset.generated].steps));
  redraw = offerMaps(data.texts);
  addEventListener("resize", () => redraw());
}

start();
