// What the page carries, unpacked when it is first needed.
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

let exhibits = {};

async function loadExhibits() {
  exhibits = JSON.parse(await unpack("data-exhibits"));
}

async function loadPlotly() {
  // The page's policy names this script's hash: anything else would not run.
  document.head.append(make("script", {}, await unpack("data-plotly")));
}

function recorded(keys) {
  return (keys || "").split(" ").filter(Boolean).map((key) => exhibits[key]);
}
