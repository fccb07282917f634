// Where several models recorded the same thing, one is shown: the one picked there or at the top, or
// else the first.
function showSubject(group, subject) {
  const items = all("[data-subject]", group);
  const has = items.some((item) => item.dataset.subject === subject);
  const shownSubject = has ? subject : items[0]?.dataset.subject;
  for (const item of items) item.hidden = item.dataset.subject !== shownSubject;
  return shownSubject;
}

function offerSubjects() {
  const pickers = [];
  for (const group of all("[data-choices]")) {
    const subjects = [...new Set(all("[data-subject]", group).map((item) => item.dataset.subject))];
    if (subjects.length < 2) continue;
    const here = picker(subjects, "model", (at) => showSubject(group, subjects[at]));
    here.element.classList.add("here");
    group.insertBefore(here.element, group.querySelector("[data-subject]"));
    pickers.push((subject) => { here.select.value = subjects.indexOf(showSubject(group, subject)); });
  }
  const top = document.getElementById("subject");
  if (!top) return;
  const pickAll = () => pickers.forEach((pick) => pick(top.value));
  top.addEventListener("change", pickAll);
  pickAll();
}
