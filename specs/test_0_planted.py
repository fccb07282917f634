"""Experiment 0: the laws would have seen what really went wrong.

Faults modelled on the history of mlx-lm are planted in its code, in models, in configurations and
in tokenizers.
"""

import pytest

from fixtures import planted
from fixtures.models.known_faults import known_faults
from llm_spec.laws import LAWS, OBJECT_LAWS, TEXT_LAWS, Finding

LAW_OF = {law.__name__: law for law in (*LAWS, *OBJECT_LAWS, *TEXT_LAWS)}


def pytest_generate_tests(metafunc):
    if "planted_fault" in metafunc.fixturenames:
        metafunc.parametrize("planted_fault", list(pairs()), indirect=True)


def pairs():
    """Every fault with every law that must see it. The first of each law is planted in every run:
    it is the falsifier of the law's claim (see test_9_laws.py)."""
    for fault in planted.FAULTS:
        for law in fault.laws:
            yield pytest.param((fault, law), id=f"{law}-{fault.name.replace(' ', '-')}")


def see_nothing(monkeypatch):
    green = Finding("what it sees", "nothing", "nothing", True)
    monkeypatch.setattr(planted, "found", lambda *_: green)


@pytest.mark.slow
@pytest.mark.claim(id="0.60", falsifier=see_nothing)
def test_a_fault_of_the_past_turns_its_law_red(planted_fault, exhibit):
    """What the law says of the healthy subject, and once the fault is planted."""
    fault, law = planted_fault
    subject, config = planted.build(fault)
    healthy = planted.found(fault, law, subject, config)
    with pytest.MonkeyPatch.context() as patch:
        finding = planted.found(fault, law, subject, config, patch)
    exhibit.table(
        [
            ["fault", fault.name],
            ["what really happened", fault.really],
            ["planted on", fault.architecture],
            ["healthy", healthy.says],
            ["planted", finding.says],
        ],
        columns=["", law],
        title=f"{law} under a planted fault",
    )
    exhibit.fault(LAW_OF[law], finding.holds is False)

    kept = "kept" if healthy.holds is True else healthy.says
    says = exhibit.measured(f"{law} of a healthy {fault.architecture}", kept, should_be="kept")
    assert healthy.holds is True, says

    seen = "red" if finding.holds is False else f"green: {finding.says}"
    says = exhibit.measured(f"{law} under {fault.name!r}", seen, should_be="red")
    assert seen == "red", says


def add_a_law(monkeypatch):
    monkeypatch.setitem(LAW_OF, "nothing_is_wrong", lambda case: None)


@pytest.mark.claim(id="0.61", falsifier=add_a_law)
def test_every_law_has_a_planted_fault(exhibit):
    """A law that no fault turns red has never been seen to see anything."""
    planted_for = {law: [f.name for f in planted.FAULTS if law in f.laws] for law in LAW_OF}
    exhibit.table(
        [[law, len(names), ", ".join(names)] for law, names in planted_for.items()],
        columns=["law", "faults", "their names"],
        title=f"{len(planted.FAULTS)} planted faults",
    )
    broken = {law for f in known_faults() if planted.MLX_LM in f.architectures for law in f.laws}
    without = sorted(law for law, names in planted_for.items() if not names and law not in broken)

    says = exhibit.measured("laws without a planted fault", without, should_be=[])

    assert not without, says
