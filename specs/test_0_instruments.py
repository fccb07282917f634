"""Experiment 0: the checkers are checked.

Every claim names a falsifier: a fault that is planted while its spec runs once more. A spec that
stays green under its own fault proves nothing, and turns the run red.
"""

import inspect
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from llm_spec.ledger import claims, results
from llm_spec.ledger.evidence import Exhibits
from specs.conftest import REASONS


def claimed_specs():
    """Every spec that carries a claim and its falsifier, as parameters called by the claim's id."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = import_module(f"specs.{path.stem}")
        whole = getattr(module, "pytestmark", None)
        for name, function in vars(module).items():
            for spec, marks in variants(function) if name.startswith("test_") else ():
                marks |= {whole.name: whole} if whole else {}
                # What an expected failure keeps red already says nothing by staying red.
                if "claim" in marks and "xfail" not in marks:
                    claim = marks["claim"].kwargs
                    tiers = [marks[tier] for tier in REASONS if tier in marks]
                    yield pytest.param(spec, claim["falsifier"], id=claim["id"], marks=tiers)


def variants(spec):
    """The spec and its marks; where it is held to many laws, once for each of them."""
    marks = {mark.name: mark for mark in getattr(spec, "pytestmark", ())}
    if "parametrize" not in marks:
        yield spec, marks
        return
    for each in marks["parametrize"].args[1]:
        (law,) = each.values
        held = partial(spec, law=law)
        held.__name__ = f"{spec.__name__}_{law.__name__}"
        yield held, marks | {mark.name: mark for mark in each.marks}


def call(function, given, **recorders):
    """Call `function` with the fixtures that it names."""
    available = {**given, **recorders}
    names = inspect.signature(function).parameters.keys() & available.keys()
    return function(**{name: available[name] for name in names})


class Remembered:
    """Stands in for syrupy's snapshot: learns from the healthy run, compares in the faulty one."""

    def __init__(self):
        self.facts, self.learning = [], True

    def __eq__(self, other):
        if self.learning:
            self.facts.append(other)
            return True
        return other == self.facts.pop(0)

    __hash__ = None


def refutation(spec, falsifier, given):
    """What the spec says once its fault is planted, or None if it stays green."""
    said = {"exhibit": Exhibits(lambda name, value: None, "planted fault", pytest.skip)}
    if "snapshot" in inspect.signature(spec).parameters:
        said["snapshot"] = Remembered()
        call(spec, given, **said)
        said["snapshot"].learning = False
    changed = call(falsifier, given) or {}
    try:
        call(spec, {**given, **changed}, **said)
    except AssertionError as failure:
        return str(failure)
    return None


def pytest_generate_tests(metafunc):
    if "falsifier" in metafunc.fixturenames:
        metafunc.parametrize(("spec", "falsifier"), list(claimed_specs()))


def needs(*functions):
    """The fixtures that the functions name, except what records their evidence."""
    signatures = [inspect.signature(function).parameters.values() for function in functions]
    names = {each.name for given in signatures for each in given if each.default is each.empty}
    return names - {"exhibit", "snapshot", "spec", "falsifier", "request"}


def plant_nothing():
    return {"spec": an_honest_spec, "falsifier": lambda: None}


def an_honest_spec(exhibit):
    says = exhibit.measured("one and one", 1 + 1, should_be=2)
    assert 1 + 1 == 2, says


@pytest.mark.claim(id="0.1", falsifier=plant_nothing)
def test_every_planted_fault_turns_its_claim_red(spec, falsifier, request, exhibit):
    """The failure message of each spec under its own fault; an empty one would be a blind spec."""
    given = {name: request.getfixturevalue(name) for name in needs(spec, falsifier)}
    said = refutation(
        spec, falsifier, {**given, "request": request, "spec": None, "falsifier": None}
    )
    exhibit.text(said or "nothing: it stayed green", title=f"{spec.__name__} under its fault")
    red = said is not None and "but should be" in said
    exhibit.fault(spec, red)

    says = exhibit.measured(f"what {spec.__name__} says under its fault", said, "… but should be …")

    assert red, says


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
    """Each mistake, and what is said about it."""
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
    assert list(claims.read_ledger(file)) == ["9.1"], "a right ledger is refused"


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
    """The worst outcome counts, and what did not run has no verdict."""
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
            collected.add(outcome, None, [("claim", "9.1"), ("subject", "water")])
        given[outcomes] = collected.rows[0].verdict
    rows = [[", ".join(outcomes) or "–", verdict] for outcomes, verdict in given.items()]
    exhibit.table(rows, columns=["outcomes", "verdict"], title="verdicts")

    says = exhibit.measured("verdicts", list(given.values()), should_be=list(cases.values()))

    assert given == cases, says
