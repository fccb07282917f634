// Pictures of what a model costs: memory, roofline, ladder.
function memory(it) {
  const names = it.rows.map((row) => row.name);
  const bar = (field, name, at) => ({
    type: "bar", orientation: "h", name, x: it.rows.map((row) => row[field]), y: names.map((_, i) => i),
    marker: { color: palette()[at] }, insidetextfont: { color: colour(at === 0 ? "on-dark-tile" : "on-tile") }, constraintext: "none",
    text: it.rows.map((row) => quantity(row[field])), textposition: "auto", hoverinfo: "text",
    hovertext: it.rows.map((row) => `${label(row.name)}, ${name}: ${quantity(row[field])}${row.how ? ` (${label(row.how)})` : ""}`),
    cliponaxis: false,
  });
  return {
    data: [bar("predicted", "predicted", 0), bar("measured", "measured", 1)],
    layout: {
      height: 90 + 50 * names.length, showlegend: true, barmode: "group", bargap: 0.3,
      margin: { l: 8, r: 60, t: 34, b: 8 },
      xaxis: { title: { text: "bytes" }, tickformat: "~s", rangemode: "tozero" },
      yaxis: { autorange: "reversed", showgrid: false, ...ticks(names, 30) },
    },
  };
}

function roofline(it) {
  const ridge = it.flops / it.bandwidth;
  const reach = it.points.map((point) => point.intensity);
  const left = Math.min(ridge, ...reach) / 4;
  const right = Math.max(ridge, ...reach) * 4;
  const roof = (x, bandwidth) => Math.min(it.flops, x * bandwidth);
  const line = (bandwidth, name, dash) => {
    const corner = it.flops / bandwidth;
    const x = [left, corner, right].sort((a, b) => a - b);
    return { type: "scatter", mode: "lines", name, x, y: x.map((v) => roof(v, bandwidth)),
      line: { color: colour("soft"), width: 2, dash }, hoverinfo: "text",
      text: x.map(() => `${name}: ${short(bandwidth / 1e9)} GB/s, ${short(it.flops / 1e9)} GFLOP/s`) };
  };
  const lines = [line(it.bandwidth, "measured ceiling", "solid")];
  if (it.published) lines.push(line(it.published.bandwidth, label(`${it.published.chip}, published`), "dot"));
  const rate = (value) => `${short(Number(value.toPrecision(3)))} tokens/s`;
  const below = it.points.map((point, at) => ({
    type: "scatter", mode: "lines+markers+text", name: label(point.name), x: [point.intensity, point.intensity],
    y: [point.flops, point.share ? point.flops / point.share : null], line: { color: palette()[at % 6], width: 1, dash: "dot" },
    marker: { size: [12, 9], opacity: 1, color: palette()[at % 6], symbol: [MARKS[at % MARKS.length], "line-ew-open"] },
    text: [`${label(point.name)}${point.tokens_per_s ? `<br>${rate(point.tokens_per_s)}` : ""}${point.share == null ? "" : `<br>${percent(point.share)} of the ceiling`}`,
      point.ceiling_tokens_per_s ? `at most ${rate(point.ceiling_tokens_per_s)}` : ""],
    textposition: point.intensity > ridge ? ["middle left", "bottom left"] : ["middle right", "bottom right"], hoverinfo: "text",
    hovertext: [`${label(point.name)}<br>${short(point.flops / 1e9)} GFLOP/s at ${short(point.intensity)} FLOP/byte`, "the ceiling"],
    cliponaxis: false,
  }));
  return {
    data: [...lines, ...below],
    layout: {
      height: 400, margin: { l: 8, r: 24, t: 34, b: 8 },
      xaxis: { type: "log", title: { text: "work per byte read (FLOP/byte)" }, range: [Math.log10(left), Math.log10(right)], dtick: 1 },
      yaxis: { type: "log", title: { text: "reached (FLOP/s)" }, tickformat: "~s", dtick: 1 },
    },
  };
}

function ladder(it) {
  const byteQuality = it.rungs.some((rung) => rung.bits_per_byte != null);
  const quality = (rung) => (byteQuality ? rung.bits_per_byte : rung.kl_mean);
  const rungs = it.rungs.filter((rung) => quality(rung) != null).sort((a, b) => a.bytes - b.bytes);
  const best = rungs.find((rung) => rung.name === it.reference);
  return {
    data: [{
      type: "scatter", mode: "markers+text", x: rungs.map((rung) => rung.bytes), y: rungs.map(quality),
      text: rungs.map((rung) => label(rung.name)), cliponaxis: false,
      textposition: rungs.map((_, at) => (at % 2 ? "bottom center" : "top center")), marker: { size: 10, color: palette()[0] }, hoverinfo: "text",
      hovertext: rungs.map((rung) => `${label(rung.name)}: ${quantity(rung.bytes)}` +
        [["bits per byte", rung.bits_per_byte], ["mean KL", rung.kl_mean], ["99th percentile of KL", rung.kl_p99]]
          .filter(([, value]) => value != null).map(([name, value]) => `<br>${name} ${short(value)}`).join("") +
        (rung.flips == null ? "" : `<br>${percent(rung.flips)} of top tokens changed`)),
    }],
    layout: {
      height: 380, margin: { l: 8, r: 40, t: 24, b: 8 },
      shapes: best && byteQuality ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: quality(best), y1: quality(best), line: { color: colour("c-orange"), dash: "dot", width: 1.5 } }] : [],
      xaxis: { type: "log", title: { text: "bytes of weights" }, tickformat: "~s", dtick: "D2" },
      yaxis: { type: byteQuality ? "linear" : "log", title: { text: byteQuality ? "bits per byte (lower is better)" : "mean KL from the reference (lower is better)" } },
    },
  };
}

Object.assign(FIGURES, { memory, roofline, ladder });

Object.assign(TABLES, {
  memory: (it) => [["part", "predicted (bytes)", "measured (bytes)", "measured by"],
    it.rows.map((row) => [row.name, row.predicted, row.measured, row.how ?? ""])],
  roofline: (it) => [["work", "FLOP/byte", "FLOP/s", "tokens/s", "tokens/s at most", "share of the ceiling"],
    it.points.map((p) => [p.name, p.intensity, p.flops, p.tokens_per_s, p.ceiling_tokens_per_s, percent(p.share)])],
  ladder: (it) => [["rung", "bytes", "bits per weight", "bits per byte", "mean KL", "p99 KL", "top tokens changed", "tokens/s"],
    it.rungs.map((r) => [r.name, r.bytes, r.bits_per_weight, r.bits_per_byte, r.kl_mean, r.kl_p99, percent(r.flips), r.tokens_per_s])],
});
