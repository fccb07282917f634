"""Experiment 0: what sweeps of two releases say of the step between them, and bisection."""

import pytest

from llm_spec.report import releases


def swept(mlx_lm, verdicts):
    """results.json of a sweep: `{(claim, subject): (verdict, measured)}`."""
    rows = [
        {"id": id_, "says": f"{id_} holds", "subject": subject, "verdict": verdict,
         "measured": measured, "reason": None}
        for (id_, subject), (verdict, measured) in verdicts.items()
    ]  # fmt: skip
    return {"environment": {"versions": {"mlx-lm": mlx_lm, "mlx": "0.30.0"}}, "claims": rows}


OLD = swept("0.9.0", {
    ("9.11", "llama (tiny)"): ("verified", "distance = 0"),
    ("9.11", "llama (tiny, retied)"): ("refuted", "raised = KeyError: x"),
    ("9.12", "llama (tiny)"): ("verified", "distance = 0"),
    ("9.12", "gone (tiny)"): ("refuted", "distance = 3"),
    ("9.13", "llama (tiny)"): ("refuted", "distance = 7"),
})  # fmt: skip
NEW = swept("0.10.0", {
    ("9.11", "llama (tiny)"): ("verified", "distance = 0"),
    ("9.11", "llama (tiny, retied)"): ("verified", "distance = 0"),
    ("9.12", "llama (tiny)"): ("refuted", "distance = 5"),
    ("9.13", "llama (tiny)"): ("not run", None),
})  # fmt: skip
STEP = """## mlx-lm 0.9.0 to 0.10.0

Gone: gone.

Mended: 1.

| claim | architectures | seen with 0.9.0 |
| --- | --- | --- |
| 9.11 9.11 holds | llama | `raised = KeyError: x` |

Broke: 1.

| claim | architectures | seen with 0.10.0 |
| --- | --- | --- |
| 9.12 9.12 holds | llama | `distance = 5` |"""


def take_whatever_was_broken_for_mended(monkeypatch):
    monkeypatch.setattr(releases, "mended", lambda broken, whole: broken.broken)


@pytest.mark.claim(id="0.138", falsifier=take_whatever_was_broken_for_mended)
def test_what_a_release_mended_and_broke_is_what_was_verified_on_the_other_side(exhibit):
    """Two sweeps, the newer one given first: of what is refuted in one of them, the part that was
    not judged in the other is neither mended nor broken."""
    page = releases.as_markdown([NEW, OLD])
    exhibit.text(page, title="two sweeps")
    step = page[page.index("## ") :]

    says = exhibit.measured("the step", step, should_be=STEP)

    assert step == STEP, says


ONE_EXCEPTION = swept("0.11.0", {
    ("9.11", "llama (tiny)"): ("refuted", "raised = NameError: name 'keys' is not defined"),
    ("9.12", "llama (tiny)"): ("refuted", "raised = NameError: name 'keys' is not defined"),
    ("9.12", "qwen3 (tiny)"): ("refuted", "raised = NameError: name 'keys' is not defined"),
    ("9.13", "llama (tiny)"): ("refuted", "distance = 7"),
    ("9.14", "llama (tiny)"): ("refuted", "distance = 7"),
})  # fmt: skip
MENDED = swept("0.12.0", {
    (row["id"], row["subject"]): ("verified", "distance = 0") for row in ONE_EXCEPTION["claims"]
})  # fmt: skip
ROWS = """| 2 claims: 9.11, 9.12 | llama, qwen3 | `raised = NameError: name 'keys' is not defined` |
| 9.13 9.13 holds | llama | `distance = 7` |
| 9.14 9.14 holds | llama | `distance = 7` |"""


def take_an_exception_for_a_number(monkeypatch):
    monkeypatch.setattr(releases, "_kind", lambda seen: "other")


@pytest.mark.claim(id="0.203", falsifier=take_an_exception_for_a_number)
def test_claims_that_meet_one_exception_are_one_row(exhibit):
    """The same number for two claims is no common cause; the same exception is."""
    page = releases.as_markdown([ONE_EXCEPTION, MENDED])
    exhibit.text(page, title="two sweeps")
    step = page[page.index("## ") :]
    rows = step[step.index("| --- |") :].partition("\n")[2].partition("\n\n")[0]

    says = exhibit.measured("the rows of what was mended", rows, should_be=ROWS)

    assert rows == ROWS, says


def start_one_too_late(monkeypatch):
    first = releases.first_alike

    def late(names, verdict):
        found = first(names[1:], verdict)
        return found and (names[names.index(found[0]) - 1], *found[1:])

    monkeypatch.setattr(releases, "first_alike", late)


@pytest.mark.claim(id="0.139", falsifier=start_one_too_late)
def test_bisection_finds_the_first_release_in_few_runs(exhibit):
    """Eleven releases: the change is between each pair of neighbours in turn."""
    names = [f"0.{i}" for i in range(11)]
    wrong, most = [], 0
    for place in range(1, len(names)):
        asked = []

        def verdict(name, place=place, asked=asked):
            asked.append(name)
            return "verified" if names.index(name) >= place else "refuted"

        found = releases.first_alike(names, verdict)
        expected = (names[place - 1], "refuted", names[place], "verified")
        wrong += [] if found == expected else [f"{names[place]}: {found}"]
        most = max(most, len(asked))
    same = releases.first_alike(names, lambda name: "verified")
    exhibit.table([[len(names), most]], ["releases", "runs at most"], "bisection")

    says = exhibit.measured("changes that are not found", wrong, should_be=[])

    assert same is None, f"first release with a change = {same}, but should be None"
    assert most <= 6, f"runs = {most}, but should be at most 6: both ends and four halves"
    assert not wrong, says
