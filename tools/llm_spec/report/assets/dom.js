// Elements from plain values. Text only ever enters the page as text.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function token(text) {
  return make("bdi", { class: "token" }, text);
}

function all(selector, root = document) {
  return [...root.querySelectorAll(selector)];
}

let serial = 0;
function freshId(prefix) {
  serial += 1;
  return `${prefix}-${serial}`;
}

// A labelled slider whose value is read out; arrow keys step it.
function slider({ name, min, max, step = 1, value, format = String, onchange }) {
  const id = freshId("slider");
  const output = make("output", { for: id }, format(value));
  const input = make("input", { type: "range", id, min, max, step, value, "aria-valuetext": format(value) });
  const show = () => {
    output.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => { show(); onchange(Number(input.value)); });
  const element = make("label", { class: "slider" }, make("span", {}, name), input, output);
  return { element, input, set(next) { input.value = next; show(); } };
}

// Radio buttons in a row; arrow keys move between them.
function choice(options, selected, label, onchange) {
  const name = freshId("choice");
  const group = make("span", { class: "choice", role: "radiogroup", "aria-label": label });
  for (const option of options) {
    const input = make("input", { type: "radio", name, value: option, checked: option === selected,
      onchange: () => onchange(option) });
    group.append(make("label", {}, input, make("span", {}, option)));
  }
  return group;
}

function picker(options, label, onchange) {
  const select = make("select", {}, ...options.map((text, at) => make("option", { value: at }, text)));
  select.addEventListener("change", () => onchange(Number(select.value)));
  return { element: make("label", { class: "picker" }, make("span", {}, label), select), select };
}
