"""Experiment 0: reports as files, and two of them held against each other."""

import argparse
import copy
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from rich.console import Console

from fixtures.doubles.browser import PHONE, unfolded, visit
from fixtures.doubles.report_sample import miswrite, sample, written
from llm_spec.cli import report as report_command
from llm_spec.ledger.results import SCHEMA
from llm_spec.report import comparison as comparing
from llm_spec.report import comparison_page, load, sections
from llm_spec.report.comparison_page import as_text, write_comparison
from llm_spec.report.page import render_report

NAN = '{"kind":"bars","title":"t","axis":"a","labels":["x"],"values":[NaN]}'


def widen_a_panel(monkeypatch):
    miswrite(monkeypatch, "sections.css", ".panel {", ".panel { min-width: 60rem;")


@pytest.mark.browser
@pytest.mark.claim(id="0.37", falsifier=widen_a_panel)
def test_a_phone_in_the_dark_shows_what_a_screen_in_the_light_does(tmp_path, exhibit):
    """Nothing is cut off sideways, and text in pictures has the page's text colour."""
    path = written(tmp_path)
    with visit(path, color_scheme="dark", **PHONE) as visited:
        visited.draw_all()
        cut_off = visited.intrusions()["overflow"]
        phone = visited.page.locator(".main-svg").count()
        dark = words_and_paper(visited.page)
        visited.page.emulate_media(color_scheme="light")
        visited.page.wait_for_timeout(300)
        light = words_and_paper(visited.page)
    with visit(path) as visited:
        visited.draw_all()
        screen = visited.page.locator(".main-svg").count()
    exhibit.table([["dark", *dark], ["light", *light]], ["", "words", "paper"], "colours")

    found = {"cut off": cut_off, "pictures": phone}
    says = exhibit.measured("on a phone", found, should_be={"cut off": 0, "pictures": screen})

    assert found == {"cut off": 0, "pictures": screen}, says
    assert dark == ["rgb(235, 232, 225)", "rgb(20, 22, 26)"], f"dark = {dark}, but should be dark"
    assert light == ["rgb(30, 29, 27)", "rgb(251, 250, 247)"], f"light = {light}, but should be so"


def words_and_paper(reader):
    return reader.evaluate("""[
      getComputedStyle(document.querySelector('.main-svg .ytick text')).fill,
      getComputedStyle(document.body).backgroundColor]""")


def believe_every_exhibit(monkeypatch):
    monkeypatch.setattr(load, "exhibit_fault", lambda exhibit: None)


@pytest.mark.claim(id="0.38", falsifier=believe_every_exhibit)
def test_results_that_cannot_be_drawn_are_refused_in_one_sentence(tmp_path, exhibit):
    """The command's message for each; the previous report must still be there."""
    good = json.dumps(sample())
    mistakes = {
        "cut off": good[: len(good) // 2],
        "empty": "",
        "a newer schema": good.replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'),
        "NaN in an exhibit": good.replace('"exhibits": []', f'"exhibits": [{NAN}]', 1),
        "not ours": "[1, 2]",
        "not JSON": "<!doctype html>",
        "an unknown verdict": good.replace('"verified"', '"true"', 1),
        "a heat map that is ragged": good.replace('"strip", "rows": [', '"strip", "rows": ["x", '),
        "nested too deep": "[" * 200_000,
    }
    report = tmp_path / "report.html"
    report.write_text("the last report")
    said, wrong = {}, []
    for mistake, text in mistakes.items():
        (tmp_path / "results.json").write_text(text)
        code, said[mistake] = drawn(tmp_path / "results.json", report)
        one_sentence = said[mistake].count("\n") == 1 and said[mistake].rstrip().endswith(".")
        if code != 2 or not one_sentence or report.read_text() != "the last report":
            wrong.append(mistake)
    exhibit.table(list(map(list, said.items())), columns=["results", "said"], title="refusals")

    says = exhibit.measured("mistakes without a one-sentence refusal", wrong, should_be=[])

    assert not wrong, says
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]
    broken_off = sample()
    broken_off["environment"]["partial"] = True
    marked = [">Partial.<" in render_report(results) for results in (sample(), broken_off)]
    assert marked == [False, True], f"marked partial = {marked}, but should be only the second"


def drawn(results, report):
    """Exit code of `llm-spec report` and what it said."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(said):
        code = report_command.run(argparse.Namespace(results=results, output=report))
    return code, said.getvalue()


def see_no_change(monkeypatch):
    monkeypatch.setattr(comparing.Change, "what", "same")


@pytest.mark.claim(id="0.39", falsifier=see_no_change)
def test_a_comparison_lists_exactly_what_changed(tmp_path, exhibit):
    """Model b is another one in the second run; a verdict, a value, a lost and a new claim."""
    before = sample()
    after = copy.deepcopy(before)
    rows = {(claim["id"], claim["subject"]): claim for claim in after["claims"]}
    rows["1.1", "model-a"]["verdict"] = "refuted"
    rows["8.1", "model-b"] |= {"measured": "error = 3e-07 in 40 layers", "values": [3e-07]}
    after["claims"].remove(rows["7.1", "model-a"])
    after["claims"].append({**rows["7.1", "model-b"], "id": "7.9", "subject": "model-a"})
    for claim in after["claims"]:
        claim["subject"] = claim["subject"].replace("model-b", "model-c")

    found = comparing.compare(before, after)
    listed = {
        what: [(change.id, change.subject, change.ratio) for change in found.by(what)]
        for what in ("verdict", "value", "only in A", "only in B")
    }
    exhibit.table([[what, str(changes)] for what, changes in listed.items()], ["what", "listed"],
                  "changes")  # fmt: skip

    expected = {
        "verdict": [("1.1", "model-a", pytest.approx(1.0))],
        "value": [("8.1", "model-b → model-c", pytest.approx(3.0))],
        "only in A": [("7.1", "model-a", None)],
        "only in B": [("7.9", "model-a", None)],
    }
    says = exhibit.measured("changes", listed, should_be=expected)
    assert listed == expected, says


def tell_each_alone(monkeypatch):
    monkeypatch.setattr(comparison_page, "by_cause", lambda changes: [[each] for each in changes])


@pytest.mark.claim(id="0.202", falsifier=tell_each_alone)
def test_what_one_known_fault_changes_is_told_together(exhibit):
    """All claims of the first model break in B: two by one known fault, the others anew."""
    before, after = sample(), sample()
    rows = [claim for claim in after["claims"] if claim["verdict"] == "verified"]
    for claim in rows:
        claim |= {"verdict": "refuted", "reason": f"{claim['id']} is red", "known": False}
    for claim in rows[:2]:
        claim |= {"reason": "known: mlx: no kernel", "known": True}

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_text(comparing.compare(before, after), ("a.json", "b.json")))
    told = console.export_text()
    exhibit.text(told, title="what compare prints")

    says = exhibit.measured("lines about the fault", told.count("no kernel"), should_be=1)
    assert told.count("no kernel") == 1, says
    assert f"the same fault: 1 more, claims {rows[1]['id']}" in told, told


def call_what_did_not_run_another_verdict(monkeypatch):
    monkeypatch.setattr(comparing, "NOT_RUN", "never")


@pytest.mark.claim(id="0.128", falsifier=call_what_did_not_run_another_verdict)
def test_an_interrupted_run_is_compared_where_both_ran(tmp_path, exhibit):
    """B ended after its first claim: the terminal lists no claim that B did not reach."""
    before, after = sample(), sample()
    for claim in after["claims"][1:]:
        claim |= {"verdict": "not run", "measured": None, "values": [], "reason": None}
    after["environment"]["partial"] = True

    found = comparing.compare(before, after)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_text(found, ("a.json", "b.json")))
    told = console.export_text()
    exhibit.text(told, title="what compare prints")
    write_comparison(found, ("a.json", "b.json"), tmp_path / "compared.html")

    ran = [{_key(row) for row in run["claims"] if row["verdict"] != "not run"}
           for run in (before, after)]  # fmt: skip
    unreached = len(ran[0] - ran[1])
    listed = [change.id for change in found.by("verdict") + found.by("value")]
    says = exhibit.measured("claims listed as changed", listed, should_be=[])
    assert not listed, says
    assert f"Checked only in A ({unreached})" in told, told
    assert f"{unreached:>6}  not reached" in told, told
    page = (tmp_path / "compared.html").read_text(encoding="utf-8")
    assert f"<summary>{unreached} claims</summary>" in page, "the page should fold what B lacks"


def _key(row):
    return row["id"], row["subject"]


def pay_nothing(monkeypatch):
    monkeypatch.setattr(sections, "cost", lambda exhibit, drawn_by_script: 0)


@pytest.mark.claim(id="0.40", falsifier=pay_nothing)
def test_a_report_of_too_much_is_cut_and_says_so(exhibit):
    """Half a megabyte of pictures for a fifth of one; every claim must still be in the ledger."""
    results = sample()
    draw = np.random.default_rng(3)
    for number, claim in enumerate(results["claims"]):
        claim["exhibits"].append({
            "kind": "heatmap", "title": f"noise {number}", "rows": ["x"] * 80, "columns": [],
            "values": draw.normal(size=(80, 80)).tolist()})  # fmt: skip
    whole = len(render_report(results).encode())
    limit = whole - 300_000

    cut = render_report(results, limit)
    size, claims = len(cut.encode()), unfolded(cut).count('<li id="claim-')
    left_out = re.search(r"(\d+) exhibits were left out", cut)
    exhibit.text(left_out.group() if left_out else "nothing", title="what the page says of it")

    says = exhibit.measured("bytes", size, should_be=f"at most {limit:,}")
    assert size <= limit, says
    assert size > limit / 2, f"bytes = {size:,}, but should be near {limit:,}, not far below"
    assert left_out, f"the page says = {left_out}, but should be how many exhibits it left out"
    assert claims == len({claim["id"] for claim in results["claims"]}), f"{claims} claims are left"
    priced = [("tokens", "one", 10), ("attention", "one", 10), ("tokens", "two", 10),
              ("attention", "two", 10), ("heatmap", "two", 30), ("tokens", "last", 30)]  # fmt: skip
    shown = [sections.Shown({"kind": k}, subject, [], price=price) for k, subject, price in priced]
    kept = [(item.kind, item.subject) for item in sections.affordable(shown, 80)]
    assert ("tokens", "last") in kept, f"kept = {kept}, but should hold the panels of all models"
