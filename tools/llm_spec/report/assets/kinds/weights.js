// A model as tiles, by the path of each group's name; click to go in, click the top to come out.
const PARTS = [
  [/embed|wte|wpe/, 1, "embedding"], [/attn|attention|_proj$|qkv|mixer|ssm/, 0, "attention"],
  [/mlp|ffn|feed|expert|gate|up_proj|down_proj/, 2, "feed-forward"], [/norm|ln_/, 3, "norm"], [/head/, 4, "head"],
];

function partOf(path) {
  const rules = /mlp|ffn|feed|expert/.test(path) ? [PARTS[2]] : PARTS;
  return rules.find(([pattern]) => pattern.test(path));
}

// In the order of a forward pass; layers by their number, whatever the order of the file.
function placeOf(path) {
  const layer = path.find((name) => /^\d+$/.test(name));
  const inner = partOf(path.join("."))?.[2];
  return [layer != null ? 1 : inner === "embedding" ? 0 : inner === "head" ? 3 : 2, Number(layer ?? 0), inner === "attention" ? 0 : 1];
}

function inForwardOrder(groups) {
  return groups.map((group) => ({ group, path: group.name.replace(/\.weight$/, "").split(".") }))
    .map((one) => ({ ...one, place: placeOf(one.path) }))
    .sort((a, b) => a.place.map((at, i) => at - b.place[i]).find(Boolean) ?? 0);
}

// Many layers are laid in rows, so that their numbers read from left to right.
function inRows(paths) {
  const at = paths.map((path) => path.findIndex((name) => /^\d+$/.test(name))).find((place) => place >= 0);
  const count = 1 + Math.max(...paths.map((path) => Number(path[at])).filter(Number.isInteger));
  if (!(count > 8)) return paths;
  const wide = Math.ceil(Math.sqrt(count));
  return paths.map((path) => {
    if (!/^\d+$/.test(path[at])) return path;
    const first = wide * Math.floor(Number(path[at]) / wide);
    return [...path.slice(0, at), `layers ${first}–${Math.min(first + wide, count) - 1}`, ...path.slice(at)];
  });
}

// "layer 3" for a number, "attn" for "self_attn": what fits a tile.
function tileName(name) {
  if (/^\d+$/.test(name)) return `layer ${name}`;
  return name.replace("self_attn", "attn").replace("embed_tokens", "embedding");
}

function treemapFigure(it, measure) {
  const nodes = new Map([["", { parent: null, name: it.title, value: 0 }]]);
  const ordered = inForwardOrder(it.groups);
  const bare = ordered.map(({ path }) => path);
  while (bare.every((path) => path.length > 1 && path[0] === bare[0][0])) bare.forEach((path) => path.shift());
  const paths = inRows(bare);
  ordered.forEach(({ group }, index) => {
    const path = paths[index];
    let parent = "";
    path.forEach((name, at) => {
      const id = path.slice(0, at + 1).join(".");
      if (!nodes.has(id)) nodes.set(id, { parent, name, value: 0 });
      nodes.get(id).value += group[measure];
      if (at === path.length - 1) nodes.get(id).group = group;
      parent = id;
    });
    nodes.get("").value += group[measure];
  });
  const read = (value) => (measure === "bytes" ? quantity(value) : short(value));
  const ids = [...nodes.keys()];
  const list = [...nodes.values()];
  return {
    data: [{
      type: "treemap", branchvalues: "total", sort: false, ids: ids.map((id) => `/${id}`), maxdepth: 5,
      labels: list.map((node) => label(tileName(node.name))), parents: list.map((node) => (node.parent === null ? "" : `/${node.parent}`)),
      values: list.map((node) => node.value), text: list.map((node) => `${label(tileName(node.name))}  ${read(node.value)}`), textinfo: "text", hoverinfo: "text",
      hovertext: list.map((node, at) => `${label(ids[at] || it.title)}<br>${read(node.value)} ${measure === "bytes" ? "" : "parameters"}` + (node.group
        ? `<br>${label((node.group.logical_shape ?? []).join(" × "))}, stored as ${label((node.group.stored_shape ?? []).join(" × "))} ${label(node.group.dtype ?? "")}` : "")),
      marker: { colors: ids.map((id) => { const part = partOf(id); return part ? palette()[part[1]] : colour("line"); }), line: { color: colour("paper"), width: 1 }, pad: { t: 18, l: 2, r: 2, b: 2 } },
      textfont: { color: ids.map((id) => { const part = partOf(id); return colour(!part ? "ink" : part[1] === 0 ? "on-dark-tile" : "on-tile"); }) },
      tiling: { pad: 1, packing: "slice-dice" }, pathbar: { visible: true }, root: { color: "rgba(0,0,0,0)" },
    }],
    layout: { height: 660, margin: { l: 0, r: 0, t: 24, b: 0 } },
  };
}

PANELS.weights = (element) => {
  const [it] = recorded(element.dataset.key);
  let measure = "bytes";
  const redraw = () => plot(element, treemapFigure(it, measure));
  const slot = element.parentElement.querySelector("[data-weights]");
  const key = PARTS.map(([, at, name]) => make("span", {}, make("span", { class: "swatch", style: { "--hue": `var(--c-${["blue", "orange", "green", "purple", "sky"][at]})` } }), ` ${name}`));
  element.before(make("p", { class: "small key-of-parts" }, ...key, make("span", {}, "click a tile to go in, its title to come out")));
  slot.replaceWith(choice(["bytes", "parameters"], measure, "Area of the tiles", (name) => { measure = name; redraw(); }));
  return redraw;
};

Object.assign(TABLES, {
  weights: (it) => [["group", "shape", "as stored", "dtype", "parameters", "bytes"],
    it.groups.map((g) => [g.name, (g.logical_shape ?? []).join(" × "), (g.stored_shape ?? []).join(" × "), g.dtype ?? "", g.parameters, g.bytes])],
});
