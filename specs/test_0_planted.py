"""Experiment 0: the laws detect faults that mlx-lm really had.

Faults modelled on the history of mlx-lm are planted in its code, in models, in configurations and
in tokenizers, and each law says for which cause it turned red. Models are built in float32, in
bfloat16 and packed in 4 bits.
"""

from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from fixtures import planted
from fixtures.models.known_faults import faults_of
from fixtures.plugins.collection import asked_tiers, ledger_of
from llm_spec.laws import LAWS, OBJECT_LAWS, TEXT_LAWS, Finding
from llm_spec.laws.finding import NO_KERNEL, ROUNDING_ALONE

LAW_OF = {law.__name__: law for law in (*LAWS, *OBJECT_LAWS, *TEXT_LAWS)}

CANNOT_BE_JUDGED = (*NO_KERNEL, ROUNDING_ALONE)
"""Why a healthy model is not judged in a number format: told as such, and never as red."""


def pytest_generate_tests(metafunc):
    if "planted_fault" in metafunc.fixturenames:
        run = "slow" in asked_tiers(metafunc.config)  # else none of the 500 has to be collected
        metafunc.parametrize("planted_fault", list(pairs()) if run else [], indirect=True)


def pairs():
    """Every fault with every law that must see it, in every number format. The first of each law is
    planted in every run: it is the falsifier of the law's claim (see test_9_laws.py)."""
    for fault in planted.FAULTS:
        for law in fault.laws:
            for stored in planted.formats_of(law):
                id_ = f"{law}-{fault.name.replace(' ', '-')}-{stored}"
                yield pytest.param((fault, law, stored), id=id_)


def see_nothing(monkeypatch):
    green = Finding("what it sees", "nothing", "nothing", True)
    monkeypatch.setattr(planted, "found", lambda *_: green)


@pytest.mark.slow
@pytest.mark.claim(id="0.60", falsifier=see_nothing)
def test_a_fault_of_the_past_turns_its_law_red(planted_fault, exhibit):
    """What the law says of the healthy subject, and once the fault is planted: red, for the cause
    and with the value that the fault states. What it is planted in is left as it was."""
    fault, law, stored = planted_fault
    arrays = arrays_of(fault, stored)
    healthy, finding = planted.healthy(fault, law, stored), planted.found(fault, law, stored)
    expected = fault.laws[law]
    lacks = expected.lacks(finding)
    if (exempt := exemption(fault, law, stored, healthy)) is not None:
        jumps = ROUNDING_ALONE in exempt  # then a fault may be larger than that, and be seen
        assert lacks or jumps, f"{law} sees {fault.name!r} in {stored}, but should not: {exempt}"
        pytest.skip(f"does not apply in {stored}: {exempt}")
    exhibit.table(
        [
            ["fault", fault.name],
            ["what really happened", fault.really],
            ["planted on", f"{fault.architecture}, {stored}"],
            ["healthy", healthy.says],
            ["planted", f"{finding.cause}: {finding.says}"],
            ["expected", str(expected)],
        ],
        columns=["", law],
        title=f"{law} under a planted fault",
    )
    exhibit.fault(LAW_OF[law], not lacks)

    kept = "kept" if healthy.holds is True else healthy.says
    says = exhibit.measured(f"{law} of a healthy {fault.architecture}", kept, should_be="kept")
    assert healthy.holds is True, says

    says = exhibit.measured(f"{law} under {fault.name!r}", lacks or "red", should_be=str(expected))
    assert not lacks, says

    left = arrays_of(fault, stored)
    assert left.keys() == arrays.keys(), f"{left.keys() ^ arrays.keys()} came or went"
    changed = [path for path, array in left.items() if array is not arrays[path]]
    assert not changed, f"{fault.name!r} left {changed} = other arrays, but should take all back"


def exemption(fault, law, stored, healthy):
    """Why a law cannot see a fault in a number format, or None where it must."""
    if healthy.holds is None and any(says in healthy.what for says in CANNOT_BE_JUDGED):
        return healthy.what
    return planted.not_applicable(fault, law, stored) or None


def arrays_of(fault, stored):
    """The arrays of the model that a fault is planted in, by path."""
    model, _ = planted.build(fault, stored)
    return dict(tree_flatten(model.parameters())) if hasattr(model, "parameters") else {}


LEAST_SEEN = {"float32": 0.98, "bfloat16": 0.95, "4-bit": 0.95, planted.ALONE: 0.0}
"""The share of planted pairs that must be red, by number format. Of weights in a half type without
a float32 copy it is only told."""


def see_nothing_in_bfloat16(monkeypatch):
    found, green = planted.found, Finding("what it sees", "nothing", "nothing", True)
    monkeypatch.setattr(
        planted,
        "found",
        lambda fault, law, stored: green if stored == "bfloat16" else found(fault, law, stored),
    )


@pytest.mark.slow
@pytest.mark.claim(id="0.71", falsifier=see_nothing_in_bfloat16)
def test_faults_of_models_are_seen_in_every_number_format(exhibit):
    """One row per fault and law: what the law finds in each number format."""
    rows = [
        [law, fault.name, *(seen(fault, law, stored) for stored in LEAST_SEEN)]
        for fault in planted.FAULTS
        for law in fault.laws
        if planted.NO_MODEL not in planted.formats_of(law)
    ]
    exhibit.table(
        rows, columns=["law", "fault", *LEAST_SEEN], title=f"{len(rows)} pairs of law and fault"
    )
    shares = {}
    for column, stored in enumerate(LEAST_SEEN, start=2):
        told = [row[column] for row in rows if not row[column].startswith("does not apply")]
        shares[stored] = told.count("red") / len(told)
    exhibit.table(
        [[stored, 100 * share, 100 * LEAST_SEEN[stored]] for stored, share in shares.items()],
        columns=["number format", "red (%)", "least (%)"],
        title="planted pairs seen",
    )
    blind = {stored: share for stored, share in shares.items() if share < LEAST_SEEN[stored]}

    says = exhibit.measured("formats in which too few faults are seen", blind, should_be={})

    assert len(rows) > 100, f"{len(rows)} pairs were planted, but should be more than 100"
    assert not blind, says


def seen(fault, law, stored):
    """What becomes of a pair in a number format: "red", or what it is instead."""
    healthy = planted.healthy(fault, law, stored)
    if (exempt := exemption(fault, law, stored, healthy)) is not None:
        return f"does not apply: {exempt}"
    if healthy.holds is not True:
        return f"healthy: {healthy.says}"
    return fault.laws[law].lacks(planted.found(fault, law, stored)) or "red"


def add_a_law(monkeypatch):
    monkeypatch.setitem(LAW_OF, "nothing_is_wrong", lambda case: None)


@pytest.mark.claim(id="0.61", falsifier=add_a_law)
def test_every_law_has_a_planted_fault(exhibit):
    """A law that no fault turns red has never been seen to see anything. One that the released
    mlx-lm breaks is held to a mended mlx-lm as well, and has been seen to tell the two apart."""
    planted_for = {law: [f for f in planted.FAULTS if law in f.laws] for law in LAW_OF}
    exhibit.table(
        [
            [
                law,
                len(faults),
                ", ".join(f.name + " (released)" * f.in_release for f in faults),
            ]
            for law, faults in planted_for.items()
        ],
        columns=["law", "faults", "their names"],
        title=f"{len(planted.FAULTS)} planted faults",
    )
    without = sorted(law for law, faults in planted_for.items() if not faults)

    says = exhibit.measured("laws without a planted fault", without, should_be=[])

    assert not without, says


def plant_another(monkeypatch):
    monkeypatch.setattr(planted, "for_law", lambda law: planted.FAULTS[-1])


@pytest.mark.claim(id="0.72", falsifier=plant_another)
def test_the_falsifier_that_a_law_names_is_the_fault_that_is_planted(exhibit):
    """By law: what claims.toml names, and what test_9_laws.py plants. A law that mlx-lm is known to
    break has another falsifier there."""
    known = {law for law in LAW_OF if faults_of(planted.MLX_LM, law)}
    rows = [
        [claim.law, claim.falsifier, planted.for_law(claim.law).name]
        for claim in ledger_of(Path(__file__).parent).values()
        if claim.law and claim.law not in known
    ]
    exhibit.table(rows, columns=["law", "named", "planted"], title="falsifiers of laws")
    other = {law: named for law, named, fault in rows if named != fault}

    says = exhibit.measured("falsifiers that are not planted", other, should_be={})

    assert len(rows) > 50, f"{len(rows)} laws name a falsifier, but should be more than 50"
    assert not other, says


def believe_any_red(monkeypatch):
    def lacks(self, finding):
        return "" if finding.holds is False else "green"

    monkeypatch.setattr(planted.Expected, "lacks", lacks)


WANTED = {
    "an error of 0.5": planted.Expected(at_least=0.5),
    "a word": planted.Expected("ignored"),
    "an exception": planted.raised("no attribute 'lengths'"),
    "a control": planted.control("all logits are alike"),
}
FINDINGS = {
    "an error of 0.7": Finding("distance", 0.7, "0", False),
    "an error of 0.3": Finding("distance", 0.3, "0", False),
    "not a number": Finding("distance", float("nan"), "0", False),
    "a word": Finding("the base", "ignored", "used", False),
    "another word": Finding("the base", "doubled", "used", False),
    "the exception": Finding("raised", "no attribute 'lengths'", "none", False, cause="raised"),
    "another exception": Finding("raised", "unexpected 'out'", "none", False, cause="raised"),
    "the control": Finding("control", "all logits are alike", "a sight", False, cause="control"),
    "green": Finding("distance", 0.7, "1", True),
    "does not apply": Finding("it has no base"),
}
FITTING = {
    ("an error of 0.5", "an error of 0.7"),
    ("a word", "a word"),
    ("an exception", "the exception"),
    ("a control", "the control"),
}


@pytest.mark.claim(id="0.70", falsifier=believe_any_red)
def test_a_law_that_is_red_for_another_reason_has_not_seen_its_fault(exhibit):
    """What a fault states, by what a law finds: only the same cause, with the words or at least the
    number that are stated, is taken."""
    taken = {
        (wanted, found)
        for wanted, expected in WANTED.items()
        for found, finding in FINDINGS.items()
        if not expected.lacks(finding)
    }
    exhibit.table(
        [[found, *((wanted, found) in taken for wanted in WANTED)] for found in FINDINGS],
        columns=["found", *WANTED],
        title="what is taken for what was expected",
    )

    says = exhibit.measured("findings taken", sorted(taken), should_be=sorted(FITTING))

    assert taken == FITTING, says
