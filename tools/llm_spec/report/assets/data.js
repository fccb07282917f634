// What the page carries packed: for its scripts, and lists of claims that few readers unfold.
async function inflate(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function unpack(id) {
  return inflate(document.getElementById(id).textContent);
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

const packed = new Map(); // template -> the HTML that it stands for

async function unpackLists() {
  const one = async (list) => packed.set(list, await inflate(list.content.textContent));
  await Promise.all(all("[data-packed]").map(one));
  document.addEventListener("toggle", ({ target }) => putIn((list) => list.parentElement === target), true);
  putIn((list) => list.parentElement.open);
}

function putIn(isNeeded) {
  for (const [list, html] of packed) {
    if (!isNeeded(list, html)) continue;
    const folded = list.parentElement;
    packed.delete(list);
    list.outerHTML = html; // runs no script, and the page's policy would not let it
    offerSubjects(folded);
    drawInSight(folded);
  }
}
