// Colours come from the style sheet, so that pictures and page change together.
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Okabe and Ito's palette, told apart by readers with any colour vision; used in this order.
function palette() {
  return ["blue", "orange", "green", "purple", "sky", "red"].map((name) => colour(`c-${name}`));
}

// One hue from the paper to dark: lightness alone carries the value.
function sequential() {
  return [0, 1, 2, 3, 4].map((at) => [at / 4, colour(`s-${at}`)]);
}

function diverging() {
  return [[0, colour("d-low")], [0.25, colour("d-low-half")], [0.5, colour("s-0")],
    [0.75, colour("d-high-half")], [1, colour("d-high")]];
}

function baseLayout() {
  const ink = colour("ink");
  const axis = {
    gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"),
    tickcolor: colour("line"), automargin: true, title: { standoff: 8 },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: colour("sans"), size: 13, color: ink },
    margin: { l: 8, r: 8, t: 8, b: 8, pad: 2 },
    xaxis: { ...axis }, yaxis: { ...axis },
    colorway: palette(), showlegend: false, dragmode: false,
    hoverlabel: { bgcolor: ink, bordercolor: ink, font: { family: colour("sans"), color: colour("paper") }, align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  };
}

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.setAttribute("aria-label", `Colours: ${theme === "system" ? "as the system" : theme}`);
  button.textContent = { system: "◐", light: "○", dark: "●" }[theme];
}

function watchTheme(redraw) {
  let at = 0;
  document.getElementById("theme").addEventListener("click", () => {
    at = (at + 1) % THEMES.length;
    setTheme(THEMES[at]);
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  let before = null;
  addEventListener("beforeprint", () => { // paper is white
    before = document.documentElement.dataset.theme ?? "system";
    setTheme("light");
    redraw(true);
  });
  addEventListener("afterprint", () => { setTheme(before ?? "system"); redraw(); });
}
