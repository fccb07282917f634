// Where several models recorded the same thing, one is shown: the one picked there or at the top, or
// else the first, and then the panel says so. What has no model of its own stays in sight.
function showSubject(group, subject) {
  const items = all("[data-subject]", group);
  const has = items.some((item) => item.dataset.subject === subject);
  const shownSubject = has ? subject : items[0]?.dataset.subject;
  for (const item of items) item.hidden = item.dataset.subject !== shownSubject;
  return shownSubject;
}

function offerSubjects(root = document) {
  const top = document.getElementById("subject");
  if (!top) return;
  const names = Object.fromEntries([...top.options].map((option) => [option.value, option.text]));
  for (const group of all("[data-choices]", root)) {
    const items = all("[data-subject]", group);
    const subjects = [...new Set(items.map((item) => item.dataset.subject))];
    if (!subjects.length) continue;
    const instead = make("p", { class: "instead", hidden: true });
    const here = picker(subjects.map((subject) => names[subject] ?? subject), "model", (at) => show(subjects[at]));
    here.element.classList.add("here");
    const offered = subjects.length > 1 && group.dataset.choices !== "follow" ? [here.element] : [];
    items[0].before(make("div", { class: "offered" }, instead, ...offered));
    const show = (subject) => {
      const shown = showSubject(group, subject);
      here.select.value = subjects.indexOf(shown);
      instead.hidden = shown === subject;
      instead.textContent = shown === subject ? "" : `Not run for ${names[subject]}, showing ${names[shown] ?? shown}.`;
    };
    top.addEventListener("change", () => show(top.value));
    show(top.value);
  }
}
