// Where several models recorded the same thing, the one picked at the top is shown, or else the first.
function pickSubject(subject) {
  for (const group of all("[data-choices]")) {
    const items = all("[data-subject]", group);
    const has = items.some((item) => item.dataset.subject === subject);
    const shownSubject = has ? subject : items[0]?.dataset.subject;
    for (const item of items) item.hidden = item.dataset.subject !== shownSubject;
  }
}

function offerSubjects() {
  const select = document.getElementById("subject");
  if (!select) return;
  pickSubject(select.value);
  select.addEventListener("change", () => pickSubject(select.value));
}
