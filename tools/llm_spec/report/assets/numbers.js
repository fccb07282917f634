// Every picture as a table, for those who cannot see it or want the figures; built when unfolded.
const TABLES = {
  heatmap: (it) => [[it.row_axis ?? "row", ...(it.columns.length ? it.columns : it.values[0]?.map((_, at) => String(at)) ?? [])],
    it.values.map((row, at) => [it.rows[at], ...row])],
  bars: (it) => [["name", it.axis ?? "value"], it.labels.map((name, at) => [name, it.values[at]])],
  curve: (it) => [[it.x_axis ?? "x", ...Object.keys(it.series)],
    it.x.map((x, at) => [x, ...Object.values(it.series).map((series) => series[at])])],
  histogram: (it) => [["from", "to", ...Object.keys(it.series)],
    it.edges.slice(0, -1).map((edge, at) => [edge, it.edges[at + 1], ...Object.values(it.series).map((s) => s[at])])],
  memory: (it) => [["part", "predicted (bytes)", "measured (bytes)", "measured by"],
    it.rows.map((row) => [row.name, row.predicted, row.measured, row.how ?? ""])],
  roofline: (it) => [["work", "FLOP/byte", "FLOP/s", "tokens/s", "at most", "share of the ceiling"],
    it.points.map((p) => [p.name, p.intensity, p.flops, p.tokens_per_s, p.ceiling_tokens_per_s, percent(p.share)])],
  ladder: (it) => [["rung", "bytes", "bits a weight", "bits per byte", "mean KL", "p99 KL", "top tokens changed", "tokens/s"],
    it.rungs.map((r) => [r.name, r.bytes, r.bits_per_weight, r.bits_per_byte, r.kl_mean, r.kl_p99, percent(r.flips), r.tokens_per_s])],
  weights: (it) => [["group", "shape", "as stored", "dtype", "parameters", "bytes"],
    it.groups.map((g) => [g.name, (g.logical_shape ?? []).join(" × "), (g.stored_shape ?? []).join(" × "), g.dtype ?? "", g.parameters, g.bytes])],
};

function numberTable([columns, rows], title) {
  const cell = (value) => (typeof value === "number" || value == null
    ? make("td", { class: "number" }, short(value)) : make("td", {}, token(value)));
  const body = rows.map(([first, ...rest]) => make("tr", {},
    make("th", { scope: "row" }, typeof first === "number" ? short(first) : token(String(first))), ...rest.map(cell)));
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, token(String(name)))));
  return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function offerNumbers() {
  for (const details of all("[data-numbers]")) {
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const it = exhibits[details.dataset.numbers];
      details.append(numberTable(TABLES[it.kind](it), `The numbers of ${it.title}`));
    });
  }
}
