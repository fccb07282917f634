"""Experiment 0: the checks themselves are checked.

Every claim names a falsifier: a fault that is planted while its spec runs once more. A spec that
stays green under its own fault proves nothing, and turns the run red.
"""

import math

import pytest

from fixtures.plugins import healthy_runs
from fixtures.plugins.collection import asked_tiers
from llm_spec.ledger import claims, results
from llm_spec.ledger.records import About
from specs import falsification
from specs.falsification import Claimed


def pytest_generate_tests(metafunc):
    if "claimed" in metafunc.fixturenames:
        metafunc.parametrize(
            "claimed", list(falsification.claimed_specs(asked_tiers(metafunc.config)))
        )


def add_one_and_one(exhibit):
    """Stands for any spec: a control, a value that is measured, and what it is held to."""
    found, expected = math.fsum([1, 1]), math.prod([1, 2])
    exhibit.table([[found, expected]], columns=["found", "expected"], title="one and one")

    says = exhibit.measured("one and one", found, should_be=expected)

    assert math.isfinite(found), f"sum = {found}, but should be finite"
    assert found == expected, says


def add_wrongly(monkeypatch):
    monkeypatch.setattr(math, "fsum", lambda numbers: 3.0)


def plant_nothing():
    return {"claimed": Claimed(add_one_and_one, lambda: None)}


@pytest.mark.claim(id="0.1", falsifier=plant_nothing)
def test_every_planted_fault_turns_its_claim_red(claimed, request, exhibit):
    """What each spec measures without its fault, and its failure message under the fault."""
    names = falsification.fixtures_of(claimed)
    given = {name: request.getfixturevalue(name) for name in names}
    an_honest_spec = Claimed(add_one_and_one, add_wrongly)
    why, healthy, faulty = falsification.trial(
        claimed,
        {**given, "request": request, "claimed": an_honest_spec},
        falsification.green_before(claimed, given, request.config),
    )
    name = claimed.spec.__name__
    rows = [["without its fault", "; ".join(healthy.measured) or healthy.said]]
    rows += [["under its fault", faulty.said or "nothing"], ["why that proves nothing", why or "–"]]
    exhibit.table(rows, columns=["", "said"], title=name)
    if healthy.ended == faulty.ended == "skipped" and "inconclusive" not in healthy.said:
        pytest.skip(f"its claim is not checked here, with or without its fault: {healthy.said}")
    exhibit.fault(claimed.spec, why is None)

    says = exhibit.measured(
        f"what {name} says under its fault", why or faulty.said, "the refutation of its own claim"
    )

    assert why is None, says


def skip_the_spec(monkeypatch):
    monkeypatch.setattr(math, "fsum", lambda numbers: pytest.skip("no sums today"))


def break_the_spec(monkeypatch):
    monkeypatch.setattr(math, "fsum", lambda: 3.0)


def expect_something_else(monkeypatch):
    monkeypatch.setattr(math, "prod", lambda numbers: 3)


def break_the_control(monkeypatch):
    monkeypatch.setattr(math, "isfinite", lambda number: False)


def break_itself(monkeypatch):
    monkeypatch.setattr(math, "no_such_function", lambda numbers: 3.0)


PROVE_NOTHING = {
    "a fault that changes nothing": Claimed(add_one_and_one, lambda: None),
    "a fault that skips its spec": Claimed(add_one_and_one, skip_the_spec),
    "a fault that skips": Claimed(add_one_and_one, lambda: pytest.skip("no faults today")),
    "a fault by which the spec raises": Claimed(add_one_and_one, break_the_spec),
    "a fault that raises": Claimed(add_one_and_one, break_itself),
    "a fault that fails a control": Claimed(add_one_and_one, break_the_control),
    "a fault in what is expected": Claimed(add_one_and_one, expect_something_else),
    "a spec that is red anyway": Claimed(add_one_and_one, add_wrongly, expect_something_else),
    "an expected failure without a repair": Claimed(add_one_and_one, add_wrongly, fails=True),
    "an expected failure that nothing mends": Claimed(add_one_and_one, None, lambda: None, True),
}


def object_to_nothing(monkeypatch):
    monkeypatch.setattr(falsification, "objection", lambda healthy, faulty, moved: None)


@pytest.mark.claim(id="0.85", falsifier=object_to_nothing)
def test_a_fault_that_proves_nothing_is_refused(exhibit):
    """Each kind of fault that proves no claim, and the objection to it."""
    why = {name: falsification.trial(each, {})[0] for name, each in PROVE_NOTHING.items()}
    exhibit.table(
        [[name, text or "believed"] for name, text in why.items()],
        columns=["fault", "why it proves nothing"], title="faults under one and one",
    )  # fmt: skip
    believed = [name for name, text in why.items() if text is None]

    says = exhibit.measured("useless faults that are accepted", believed, should_be=[])

    proven = falsification.trial(Claimed(add_one_and_one, add_wrongly), {})[0]
    assert proven is None, f"objection to a sound fault = {proven}, but should be None"
    assert not believed, says


def take_what_it_was_green_on_for_any_other(monkeypatch):
    monkeypatch.setattr(healthy_runs, "are_the_same", lambda before, given: True)


@pytest.mark.claim(id="0.227", falsifier=take_what_it_was_green_on_for_any_other)
def test_a_green_run_stands_for_the_same_spec_on_the_same_subject_alone(exhibit):
    """A spec was green on one subject: whether that run is taken for the healthy one elsewhere."""
    subject, equal = ["a model"], ["a model"]
    runs = healthy_runs.GreenRuns()
    runs.add(add_one_and_one, {"subject": subject}, ["one and one = 2"])
    asked = {
        "the same subject": (add_one_and_one, {"subject": subject}, True),
        "the same, and a folder": (add_one_and_one, {"subject": subject, "tmp_path": "f"}, True),
        "another of the same name": (add_one_and_one, {"subject": equal}, False),
        "no subject": (add_one_and_one, {}, False),
        "another spec": (add_wrongly, {"subject": subject}, False),
    }
    taken = {name: runs.measured(*each[:2]) is not None for name, each in asked.items()}
    rows = [[name, taken[name], wanted] for name, (*_, wanted) in asked.items()]
    exhibit.table(rows, columns=["run on", "taken", "should be"], title="one green run")
    wrong = [name for name, is_taken, wanted in rows if is_taken != wanted]

    says = exhibit.measured("runs that it is wrongly taken or left for", wrong, should_be=[])

    assert wrong == [], says


ENTRY = """[[claim]]
id = "9.1"
says = "Water is wet"
kind = "law"
plan = "-"
falsifier = "it is dried"
"""
MISTAKES = {
    "not TOML": ENTRY + "[[claim",
    "a misspelt table": ENTRY.replace("[[claim]]", "[[clam]]"),
    "a misspelt field": ENTRY.replace("falsifier", "falsifer"),
    "a missing field": ENTRY.replace('kind = "law"\n', ""),
    "an empty field": ENTRY.replace("it is dried", " "),
    "a falsifier that nobody knows": ENTRY.replace("it is dried", "?"),
    "a number instead of text": ENTRY.replace('"9.1"', "9.1"),
    "an id that is no number": ENTRY.replace("9.1", "nine"),
    "an unknown kind": ENTRY.replace("law", "rule"),
    "an id twice": ENTRY + ENTRY.replace("wet", "dry"),
}


def believe_every_entry(monkeypatch):
    believed = claims.Claim("9.1", "Water is wet", "law", "-", "it is dried")
    monkeypatch.setattr(claims, "_claim", lambda entry, file: believed)


@pytest.mark.claim(id="0.2", falsifier=believe_every_entry)
def test_a_mistake_in_the_ledger_is_refused_in_one_sentence(exhibit, tmp_path):
    """Each mistake and its message."""
    file = tmp_path / "claims.toml"
    said = {}
    for mistake, text in MISTAKES.items():
        file.write_text(text)
        said[mistake] = complaint(claims.read_ledger, file)
    exhibit.table(list(map(list, said.items())), columns=["mistake", "said"], title="refusals")
    accepted = [mistake for mistake, text in said.items() if text is None]

    says = exhibit.measured("mistakes accepted", accepted, should_be=[])
    assert not accepted, says

    file.write_text(ENTRY)
    assert list(claims.read_ledger(file)) == ["9.1"], "a correct ledger is refused"


def complaint(function, *arguments):
    try:
        function(*arguments)
    except claims.LedgerError as error:
        return str(error)
    return None


def find_no_mismatch(monkeypatch):
    monkeypatch.setattr(claims, "mismatches", lambda ledger, specs, complete: [])


@pytest.mark.claim(id="0.3", falsifier=find_no_mismatch)
def test_specs_and_claims_that_do_not_fit_are_found(exhibit, tmp_path):
    """An unknown id, an id under two sentences, a spec without a claim, a claim without a spec."""
    file = tmp_path / "claims.toml"
    file.write_text(ENTRY)
    ledger = claims.read_ledger(file)
    cases = {
        "unknown id": [("test_wet", "9.1"), ("test_dry", "9.7")],
        "two sentences": [("test_wet", "9.1"), ("test_dry", "9.1")],
        "no claim": [("test_wet", "9.1"), ("test_dry", None)],
        "no spec": [],
    }
    found = {name: claims.mismatches(ledger, specs, True) for name, specs in cases.items()}
    rows = [[name, "; ".join(problems)] for name, problems in found.items()]
    exhibit.table(rows, columns=["case", "said"], title="mismatches")
    silent = [name for name, problems in found.items() if len(problems) != 1]

    says = exhibit.measured("mismatches not found", silent, should_be=[])
    assert not silent, says
    fits = claims.mismatches(ledger, [("test_wet", "9.1")], True)
    assert fits == [], f"complaints about a fitting pair = {fits}, but should be none"


def count_a_skip_as_a_pass(monkeypatch):
    verdict = results.Row.verdict.fget
    lenient = property(lambda row: "verified" if row.outcomes == ["not run"] else verdict(row))
    monkeypatch.setattr(results.Row, "verdict", lenient)


@pytest.mark.claim(id="0.4", falsifier=count_a_skip_as_a_pass)
def test_a_claim_is_verified_only_by_a_spec_that_ran_and_passed(exhibit, tmp_path):
    """The worst outcome counts; a spec that did not run gives no verdict."""
    file = tmp_path / "claims.toml"
    file.write_text(ENTRY)
    cases = {
        (): "not run",
        ("passed",): "verified",
        ("failed",): "refuted",
        ("skipped",): "not run",
        ("passed", "failed"): "refuted",
        ("passed", "skipped"): "verified",
    }
    given = {}
    for outcomes in cases:
        collected = results.Results(claims.read_ledger(file))
        collected.expect("9.1", "water")
        for outcome in outcomes:
            collected.add(results.Report(outcome, [About("9.1", "water")]))
        given[outcomes] = collected.rows[0].verdict
    rows = [[", ".join(outcomes) or "–", verdict] for outcomes, verdict in given.items()]
    exhibit.table(rows, columns=["outcomes", "verdict"], title="verdicts")

    says = exhibit.measured("verdicts", list(given.values()), should_be=list(cases.values()))

    assert given == cases, says
