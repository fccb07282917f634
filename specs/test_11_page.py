"""Experiment 11: the page that opens where a model parts from another implementation of it."""

import pytest

from fixtures.doubles.browser import visit
from fixtures.doubles.report_sample import many_models, miswrite, written
from llm_spec.ledger.evidence import PARTS

COLUMNS = (
    "model type", "setting", "mlx-lm fed", "first position", "7 tokens", "100 tokens", "verdict",
)  # fmt: skip
TEXTS = "(cells) => cells.map((cell) => cell.textContent)"


def open_the_first(monkeypatch):
    miswrite(monkeypatch, "matrix.js", "const { opens } = cell.dataset;",
             'const opens = cell.dataset.opens && "apart-0";')  # fmt: skip


@pytest.mark.browser
@pytest.mark.claim(id="11.12", falsifier=open_the_first)
def test_the_page_opens_a_disagreement_from_the_models_row(tmp_path, exhibit):
    """A cell of the table of laws by models is clicked, then the link that it offers is
    followed: what it opens must be the settings of that model, and no other's."""
    whole = many_models(models=4, laws=2)
    names = list(dict.fromkeys(c["subject"] for c in whole["claims"] if c["id"] == "9.10"))
    apart = {name: parting(name, at) for at, name in enumerate(names[1:])}
    claims = [held(whole, name, apart.get(name)) for name in names]
    opened = {}
    with visit(written(tmp_path, {**whole, "claims": whole["claims"] + claims})) as visited:
        reader = visited.page
        column = reader.locator(".matrix thead th").all_text_contents().index("11.1") - 1
        for name in names:
            row = reader.locator(".matrix tbody tr", has=reader.get_by_text(name, exact=True)).first
            row.locator("td").nth(column).click()
            link = reader.locator(".matrix .readout a")
            if link.count() == 0:
                opened[name] = None
                continue
            link.click()
            reader.wait_for_function("document.querySelector('.apart[open]')")
            opened[name] = reader.locator(".apart[open] tbody td").evaluate_all(TEXTS)
            reader.evaluate("for (const it of document.querySelectorAll('.apart')) it.open = false")
    expected = {name: apart.get(name) and list(map(str, apart[name])) for name in names}
    exhibit.table(
        [[name, ", ".join(opened[name] or ["nothing"])] for name in names],
        columns=["model", "opened"], title="opened from the table of laws by models",
    )  # fmt: skip

    says = exhibit.measured("opened", opened, should_be=expected)

    assert len(apart) == 3, (
        f"{len(apart)} models in the sample differ from transformers, but should be 3"
    )
    assert opened == expected, says


def parting(name, at):
    return [name, f"window of {8 + at}", "whole", 8 + at, 0.25, 0.5 + at, "mlx-lm is wrong"]


def held(whole, name, row):
    """The claim of experiment 11 on one model, with where it parts if it does."""
    claim = next(c for c in whole["claims"] if c["id"] == "9.10" and c["subject"] == name)
    shown = {"kind": "table", "title": PARTS, "columns": list(COLUMNS), "rows": [row]}
    known = {"verdict": "refuted", "reason": "the window is not read", "known": True}
    fate = known if row else {"verdict": "verified", "measured": "distance = 1e-6", "known": False}
    return {**claim, "id": "11.1", "exhibits": [shown] if row else [], **fate}
