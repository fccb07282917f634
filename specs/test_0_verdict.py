"""Experiment 0: the verdict on a model that --model names: in the terminal, as exit code, in files.

The exit code and the files are those of a run of its own, on a suite of two specs.
"""

import itertools
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Group

from fixtures.doubles.suite_run import plant, small_suite, start_pytest
from fixtures.models import roles
from fixtures.provision import provision
from llm_spec.ledger import closing, judgement, results, terminal
from llm_spec.ledger.claims import Claim
from llm_spec.ledger.records import About, Measured
from llm_spec.ledger.results import Row
from llm_spec.report import page

MODEL = "tiny-llama"
RATIOS = {"9.1": None, "9.2": 3.0, "9.3": 400.0, "9.4": 20.0, "9.5": 1.5}
SCREEN = 20  # lines of 80 columns


def a_row(id_, ratio, verdict="refuted"):
    """A claim whose figure is so many times its bound; a matter of no degree for None."""
    claim = Claim(id_, f"Law {id_} holds", "law", "-", "water is wet", remedy=f"Mend {id_}.")
    value = None if ratio is None else ratio * 1e-5
    says = f"distance in layer {id_[-1]} = {value}"
    bound = None if ratio is None else 1e-5
    return Row(claim, MODEL, [verdict], says, "at most 1e-5", values=[value], bounds=[bound])


REPORTS = {  # what specs of one claim report, by what they measured
    "green": results.Report("passed", [Measured("distance = 0", "0", 0.0)]),
    "known": results.Report("failed", [Measured("distance = 1", "0", 1.0)], "as known", True),
    "new": results.Report("failed", [Measured("distance = 2", "0", 2.0)], "a new failure"),
    "raised": results.Report("failed", [], "an exception"),
}
TOLD = {  # what is told of them together, in whatever order they come
    ("green", "known"): ("distance = 1", "as known", True),
    ("green", "known", "new"): ("distance = 2", "a new failure", False),
    ("green", "raised"): (None, "an exception", False),
}


def tell_the_last(monkeypatch):
    monkeypatch.setattr(results.Report, "weight", 0)


@pytest.mark.claim(id="0.151", falsifier=tell_the_last)
def test_a_refuted_claim_is_told_by_what_refutes_it(exhibit):
    """Several specs of one claim, in every order in which they can end."""
    claim, about = a_row("9.1", None).claim, About("9.1", MODEL)
    told = []
    for names, wanted in TOLD.items():
        for order in itertools.permutations(names):
            found = results.Results({claim.id: claim})
            for report in (REPORTS[name] for name in order):
                found.add(replace(report, records=[about, *report.records]))
            (row,) = found.rows
            told.append([", then ".join(order), (row.measured, row.reason, row.known), wanted])
    exhibit.table(told, columns=["reports", "told", "should be"], title="reports of one claim")
    wrong = [row for row in told if row[1] != row[2]]

    says = exhibit.measured("orders in which another report is told", wrong, should_be=[])

    assert not wrong, says


def keep_the_order_of_the_plan(monkeypatch):
    monkeypatch.setattr(judgement, "_how_far", lambda entry: 0.0)


@pytest.mark.claim(id="0.101", falsifier=keep_the_order_of_the_plan)
def test_the_verdict_on_a_model_names_the_worst_first_and_what_to_do(exhibit):
    """Five refuted claims and two that hold: three are told in full, the others by number."""
    rows = [a_row(id_, ratio) for id_, ratio in RATIOS.items()]
    rows += [a_row("9.6", 0.2, "verified"), a_row("9.7", 0.9, "verified")]
    judged = judgement.judgement(rows, MODEL, ["--model", MODEL])
    shown = terminal.render(
        closing.closing(rows, {}, None, [], [judged]), width=80, colour=False
    ).partition("verdict on ")[2]
    exhibit.text(shown, title="the end of a run")
    order = [entry["claim"] for entry in judged["refuted"]]
    told = [id_ for id_ in RATIOS if f"Mend {id_}." in shown]
    missing = [id_ for id_ in RATIOS if id_ not in shown]

    says = exhibit.measured(
        "claims in the order told", order, should_be=["9.1", "9.3", "9.4", "9.2", "9.5"]
    )

    assert order == ["9.1", "9.3", "9.4", "9.2", "9.5"], says
    assert told == ["9.1", "9.3", "9.4"], f"told in full = {told}, but should be the worst three"
    assert not missing, f"refuted claims left out = {missing}, but should be none"
    assert "9.7 at 90%, 9.6 at 20%" in shown, "the claims nearest their bounds are not listed"
    about = results.environment("pytest", "BLAS", partial=False, created="today", seeds={})
    found = results.Results({}).document(about)
    written = found | {"judged": [judged], "claims": [row.as_dict() for row in rows]}
    on_page = page.render_report(written).partition('id="verdict"')[2].partition("</section>")[0]
    left_out = [id_ for id_ in RATIOS if f"Mend {id_}." not in on_page]
    assert not left_out, f"refuted claims that the page leaves out = {left_out}"
    lines = len(shown.splitlines())
    assert lines <= SCREEN, f"lines = {lines}, but should be at most {SCREEN}"


def count_none(monkeypatch):
    monkeypatch.setattr(
        judgement, "judgement", lambda *given, made=judgement.judgement: made(*given) | NONE_LEFT
    )


NONE_LEFT = {"unreached": 0}


@pytest.mark.claim(id="0.158", falsifier=count_none)
def test_the_verdict_of_a_run_that_ended_early_says_so(exhibit):
    """One claim holds, one does not apply, and the run ended before two."""
    rows = [a_row(id_, 0.5, "verified" if id_ == "9.1" else "not run") for id_ in RATIOS][:4]
    rows[1].reason = "does not apply"
    judged = judgement.judgement(rows, MODEL, ["--model", MODEL])
    shown = terminal.render(closing.closing(rows, {}, None, [], [judged]), width=80, colour=False)
    exhibit.text(shown, title="the end of a run")
    said = [line.strip() for line in shown.splitlines() if "ended early" in line]

    wanted = ["The run ended early, before 2 of them: a part of a verdict."]
    says = exhibit.measured("what is said of its end", said, should_be=wanted)

    assert said == wanted, says


def compare_spellings(monkeypatch):
    monkeypatch.setattr(roles, "is_same", lambda one, other: one.name == other.name)


@pytest.mark.claim(id="0.221", falsifier=compare_spellings)
def test_the_verdict_on_a_model_that_is_held_to_itself_says_so(exhibit, tmp_path):
    """Pairs of what --model and --reference may name, and whether they are one model."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    path = str(tmp_path / "a")
    one_model = {
        ("smollm2-135m", "smollm2-135m"): True,
        (path, f"{path}/"): True,
        (path, str(tmp_path / "b" / ".." / "a")): True,
        (path, str(tmp_path / "linked")): True,
        (path, str(tmp_path / "b")): False,
        ("smollm2-135m", str(provision.cache_directory() / "smollm2-135m")): True,
        ("smollm2-135m", path): False,
        ("owner/one", "owner/other"): False,
    }
    entries = roles.resolve({name for pair in one_model for name in pair})
    found = {pair: roles.is_same(*(entries[name] for name in pair)) for pair in one_model}
    rows = [[*pair, same] for pair, same in found.items()]
    exhibit.table(rows, columns=["--model", "--reference", "one model"], title="held to itself?")
    judged = judgement.judgement([a_row("9.1", 0.5, "verified")], MODEL, [])
    said = [
        "held to itself"
        in terminal.render(Group(*closing.verdict_on(judged | {"itself": itself})), 80, False)
        for itself in (True, False)
    ]

    wrong = [pair for pair in one_model if found[pair] != one_model[pair]]
    says = exhibit.measured("pairs taken for what they are not", wrong, should_be=[])

    assert not wrong, says
    assert said == [True, False], f"the verdict says so = {said}, but should be True, then False"


# ── A whole run ─────────────────────────────────────────────────────────────────────────────────

SPECS = """
import pytest


@pytest.fixture
def subject(request):
    return request.param  # its name: nothing is loaded


@pytest.mark.claim(id="9.1", falsifier=None)
def test_first(subject, exhibit):
    CAN_RUN or pytest.skip("cannot run here")
    exhibit.measured("distance", 3e-5, should_be="at most 1e-5", bound=1e-5)
    assert HOLDS


@pytest.mark.claim(id="0.1", falsifier=None)
def test_second(exhibit):
    exhibit.measured("of the suite", 1, should_be=1)
"""
CASES = {
    "refuted": ("CAN_RUN, HOLDS = True, False\n", 1),
    "verified": ("CAN_RUN, HOLDS = True, True\n", 0),
    "not run": ("CAN_RUN, HOLDS = False, True\n", 5),
}


def run_of(directory, setting):
    """The exit code, the verdict in results.json and the words in JUnit XML of one run."""
    suite = small_suite(directory, setting + SPECS, ["9.1", "0.1"])
    files = suite / "results.json", suite / "verdict.xml"
    run = start_pytest("specs", "--model", MODEL, "--report", files[0], "--junitxml", files[1],
                       root=suite)  # fmt: skip
    run.communicate(timeout=120)
    document = json.loads(files[0].read_text())
    tree = ElementTree.fromstring(files[1].read_text())
    words = [
        {each.get("name"): each.get("value") for each in case.iter("property")}
        for case in tree.iter("testcase")
    ]
    return run.returncode, document["judged"][0]["verdict"], words


def all_runs(tmp_path):
    return {name: run_of(tmp_path / name.replace(" ", "-"), text)
            for name, (text, _) in CASES.items()}  # fmt: skip


def call_what_did_not_run_verified(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, CALL_VERIFIED)


CALL_VERIFIED = """
def pytest_configure():
    from fixtures.plugins import reporter

    told = reporter.judgement
    reporter.judgement = lambda *given: told(*given) | {"verdict": "verified"}
"""


@pytest.mark.claim(id="0.102", falsifier=call_what_did_not_run_verified)
def test_exit_code_and_results_give_the_verdict_on_the_model(tmp_path, exhibit):
    """A model of which no claim could be decided is no pass, though its specs only skipped."""
    found = {name: run[:2] for name, run in all_runs(tmp_path).items()}
    exhibit.table([[name, *run] for name, run in found.items()],
                  columns=["what the specs do", "exit code", "verdict in results.json"],
                  title="three runs")  # fmt: skip
    expected = {name: (code, name) for name, (_, code) in CASES.items()}

    says = exhibit.measured("exit code and verdict", found, should_be=expected)

    assert found == expected, says


def write_records_as_they_are(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, WRITE_RECORDS)


WRITE_RECORDS = """
def pytest_configure():
    from llm_spec.ledger import records

    records.in_words = lambda properties, sentence: properties
"""


@pytest.mark.claim(id="0.103", falsifier=write_records_as_they_are)
def test_junit_xml_tells_claim_subject_sentence_and_figure(tmp_path, exhibit):
    """What `--junitxml` writes of the spec that is refuted."""
    words = run_of(tmp_path / "suite", CASES["refuted"][0])[2]
    exhibit.text(json.dumps(words, indent=1), title="properties in the file")
    expected = {
        "claim": "9.1", "subject": MODEL, "sentence": "9.1 holds",
        "figure": "distance = 3e-5 (should be at most 1e-5)", "share_of_bound": "3",
    }  # fmt: skip

    says = exhibit.measured("properties of the refuted spec", words[0], should_be=expected)

    assert words[0] == expected, says
