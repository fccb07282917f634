"""Experiment 0: known faults of mlx-lm have the stated cause."""

import pytest

from fixtures.models.known_faults import known_faults
from fixtures.planted import MLX_LM, repairs
from llm_spec.laws import OBJECT_LAWS

LAW_OF = {law.__name__: law for law in OBJECT_LAWS}


def repair_nothing(monkeypatch):
    for law in repairs.REPAIRS:
        monkeypatch.setitem(repairs.REPAIRS, law, lambda patch: None)


@pytest.mark.claim(id="0.91", falsifier=repair_nothing)
def test_what_mlx_lm_breaks_holds_once_its_cause_is_repaired(exhibit):
    """Each law of mlx-lm's own objects that is known to be broken: as released, and repaired."""
    known = {law for fault in known_faults() if MLX_LM in fault.architectures for law in fault.laws}
    rows = []
    for law, repair in repairs.REPAIRS.items():
        released = LAW_OF[law]()
        with pytest.MonkeyPatch.context() as patch:
            repair(patch)
            repaired = LAW_OF[law]()
        rows.append([law, released.holds, released.says, repaired.holds, repaired.says])
    exhibit.table(
        [[law, released, repaired] for law, _, released, _, repaired in rows],
        columns=["law", "as released", "repaired"], title="known faults of mlx-lm's own objects",
    )  # fmt: skip
    broken = [law for law, *_, holds, _ in rows if not holds]

    says = exhibit.measured("laws that stay broken", broken, should_be=[])

    assert known == set(repairs.REPAIRS), f"known = {known}, but repaired = {set(repairs.REPAIRS)}"
    assert not any(released for _, released, *_ in rows), (
        "a law listed as broken holds without its repair"
    )
    assert not broken, says
