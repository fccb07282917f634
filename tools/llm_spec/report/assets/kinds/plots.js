// Kinds of exhibit that plotly draws as they are: from an exhibit to data and layout.
function extent(rows) {
  let low = Infinity, high = -Infinity;
  for (const row of rows) {
    for (const value of row) {
      if (value == null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low > high ? [0, 1] : [low, high];
}

function isStrip(it) {
  const width = it.values[0]?.length ?? 0;
  return width > 0 && (!it.columns.length || width >= 4 * it.values.length);
}

function heatmap(it) {
  const [low, high] = extent(it.values);
  const signed = low < 0;
  const bound = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const columns = it.columns.length ? it.columns : it.values[0]?.map((_, at) => String(at)) ?? [];
  const unit = it.unit ?? "";
  const text = it.values.map((row, y) => row.map((value, x) =>
    `${label(it.rows[y])} · ${label(columns[x])}: ${short(value)}${unit ? ` ${label(unit)}` : ""}`));
  const strip = isStrip(it);
  const named = it.columns.length > 0 && columns.length <= 40;
  const few = it.rows.length <= 40;
  return {
    data: [{
      type: "heatmap", z: it.values, text, hoverinfo: "text", xgap: strip ? 0 : 1, ygap: strip ? 4 : 1,
      zmin: it.zmin ?? (signed ? -bound : Math.min(0, low)), zmax: it.zmax ?? (signed ? bound : high || 1),
      colorscale: signed ? diverging() : sequential(),
      colorbar: { thickness: 10, outlinewidth: 0, len: 0.9, title: { text: label(unit), side: "right" } },
    }],
    layout: {
      height: strip ? Math.min(600, 90 + 34 * it.rows.length) : Math.min(620, 130 + 26 * it.rows.length),
      xaxis: { title: { text: label(it.column_axis ?? "") }, showgrid: false, constrain: "domain", ...(named ? ticks(columns) : {}), tickangle: named && columns.length > 8 ? -50 : "auto" },
      yaxis: { title: { text: label(it.row_axis ?? "") }, showgrid: false, autorange: "reversed", ...(few ? ticks(it.rows) : {}) },
    },
  };
}

function bars(it) {
  const unit = it.axis === "probability" ? null : it.unit ?? "";
  const read = (value) => (unit === null ? percent(value) : `${short(value)}${unit ? ` ${unit}` : ""}`);
  const shapes = it.reference == null ? [] : [{ type: "line", x0: it.reference, x1: it.reference, y0: 0, y1: 1, yref: "paper", line: { color: colour("c-orange"), width: 2, dash: "dot" } }];
  const annotations = it.reference == null ? [] : [{ x: it.reference, y: 1, yref: "paper", yanchor: "bottom", text: label(`${it.reference_name ?? "reference"}: ${read(it.reference)}`), showarrow: false, font: { color: colour("soft") } }];
  return {
    data: [{ type: "bar", orientation: "h", x: it.values, y: it.labels.map((_, at) => at),
      text: it.values.map((value) => label(read(value))), textposition: "auto", hoverinfo: "text",
      hovertext: it.labels.map((name, at) => `${label(name)}: ${label(read(it.values[at]))}`),
      marker: { color: palette()[0] }, insidetextfont: { color: colour("on-dark-tile") }, constraintext: "none", cliponaxis: false }],
    layout: {
      height: Math.max(130, 70 + 26 * it.labels.length), shapes, annotations, bargap: 0.25,
      margin: { l: 8, r: 60, t: annotations.length ? 26 : 8, b: 8 },
      xaxis: { title: { text: label(it.axis ?? "") }, tickformat: unit === null ? ".0%" : undefined, rangemode: "tozero" },
      yaxis: { autorange: "reversed", showgrid: false, ...ticks(it.labels, 30) },
    },
  };
}

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const MARKS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];

function curve(it) {
  const names = Object.keys(it.series);
  const points = it.x.length <= 40;
  // Small differences are powers of ten, as beside the picture: 3e-7 and not 300n.
  const most = Math.max(...Object.values(it.series).flat().map(Math.abs));
  return {
    data: names.map((name, at) => ({
      type: "scatter", mode: points ? "lines+markers" : "lines", name: label(name), x: it.x, y: it.series[name],
      line: { width: 2, dash: DASHES[at % DASHES.length], color: palette()[at % 6] },
      marker: { symbol: MARKS[at % MARKS.length], size: 6 }, hoverinfo: "text",
      text: it.x.map((x, i) => `${label(name)}<br>${label(it.x_axis ?? "x")} ${short(x)}: ${short(it.series[name][i])}`),
    })),
    layout: {
      height: 320, showlegend: names.length > 1, hovermode: "closest",
      margin: { l: 8, r: 16, t: names.length > 1 ? 34 : 12, b: 8 },
      xaxis: { title: { text: label(it.x_axis ?? "") }, type: it.log_x ? "log" : "linear", showgrid: false },
      yaxis: { title: { text: label(it.y_axis ?? "") }, type: it.log_y ? "log" : "linear", rangemode: "tozero", exponentformat: most < 1e-3 ? "e" : "SI" },
    },
  };
}

function histogram(it) {
  const names = Object.keys(it.series);
  const x = it.edges.flatMap((edge, at) => (at === 0 || at === it.edges.length - 1 ? [edge] : [edge, edge]));
  return {
    data: names.map((name, at) => ({
      type: "scatter", mode: "lines", name: label(name), x, y: it.series[name].flatMap((n) => [n, n]),
      fill: names.length > 1 ? "none" : "tozeroy", line: { width: 1.5, color: palette()[at % 6], dash: DASHES[at % DASHES.length] }, hoverinfo: "name+x+y",
    })),
    layout: {
      height: 300, showlegend: names.length > 1, margin: { l: 8, r: 16, t: names.length > 1 ? 34 : 12, b: 8 },
      xaxis: { title: { text: label(it.x_axis ?? "") }, showgrid: false }, yaxis: { title: { text: "count" } },
    },
  };
}

Object.assign(FIGURES, { heatmap, bars, curve, histogram });

Object.assign(TABLES, {
  heatmap: (it) => [[it.row_axis ?? "row", ...(it.columns.length ? it.columns : it.values[0]?.map((_, at) => String(at)) ?? [])],
    it.values.map((row, at) => [it.rows[at], ...row])],
  bars: (it) => [["name", it.axis ?? "value"], it.labels.map((name, at) => [name, it.values[at]])],
  curve: (it) => [[it.x_axis ?? "x", ...Object.keys(it.series)],
    it.x.map((x, at) => [x, ...Object.values(it.series).map((series) => series[at])])],
  histogram: (it) => [["from", "to", ...Object.keys(it.series)],
    it.edges.slice(0, -1).map((edge, at) => [edge, it.edges[at + 1], ...Object.values(it.series).map((s) => s[at])])],
});
