// Plotly reads a little markup in its labels. Text from results must not be read as such, and must
// not turn the direction of the words around it.
function label(text) {
  const escaped = String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return `\u2068${escaped}\u2069`;
}

// Names along an axis, cut where a long one would leave the picture no room; hovering tells it all.
function ticks(texts, limit = 18) {
  const cut = (text) => {
    const chars = [...String(text)];
    return chars.length > limit ? `${chars.slice(0, limit - 1).join("")}…` : String(text);
  };
  return { tickmode: "array", tickvals: texts.map((_, at) => at), ticktext: texts.map((text) => label(cut(text))) };
}

// The same words as the page's own: 43 %, 0.3 %, < 0.1 %.
function percent(share) {
  if (share == null) return "–";
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1\u202f%";
  return `${value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)}\u202f%`;
}

function quantity(bytes) {
  if (bytes == null) return "–";
  for (const [unit, scale] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (Math.abs(bytes) >= scale) return `${Number((bytes / scale).toPrecision(3))}\u202f${unit}`;
  }
  return `${bytes.toFixed(0)}\u202fB`;
}

function short(number) {
  if (number == null) return "–";
  if (Number.isInteger(number)) return number.toLocaleString("en");
  return Math.abs(number) >= 1e4 ? Math.round(number).toLocaleString("en") : String(Number(number.toPrecision(4)));
}
