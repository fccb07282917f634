"""Experiment 11: a model directory of the user's, held to transformers with the same weights.

`pytest specs/ --model X --oracle transformers` checks the code that a directory's config.json asks
for: both sides compute in float32, from weights that mlx-lm unpacked where the directory is
quantised. Both read the same weights, so one that the conversion got wrong is wrong on both:
`--reference` holds a directory to the one it was made from. Where transformers cannot take the
weights, one sentence says why, and the claim is not run.
"""

import pytest

from fixtures.oracle.mends import faults
from llm_spec.numerics.distances import worst
from llm_spec.oracle.pair import BOUND


def turn_by_half_the_base(beside):
    return {"beside": beside.under(faults.half_the_rotary_base)}


@pytest.mark.claim(id="11.10", falsifier=turn_by_half_the_base)
def test_a_directory_gives_the_logits_that_transformers_gives(directory, oracle, beside, exhibit):
    """States by layer tell where the two part. The last column is what storage costs: how far the
    logits move when each weight moves by half of what its number format rounds off."""
    outcome = beside.outcome
    if outcome.ended in ("not built", "not loaded"):
        pytest.skip(f"{outcome.side} could not take it: {outcome.says}")
    assert outcome.ended == "compared", f"the comparison ended with {outcome.ended}: {outcome.says}"
    logits, stored = outcome.distances["logits"], outcome.distances["stored"]
    exhibit.table(
        [[tokens, each, stored[tokens]] for tokens, each in logits.items()],
        columns=["tokens", f"from {oracle}", "from rounding the weights"],
        title="largest distance of a row of logits, relative to its norm",
    )
    states = outcome.distances["states"]
    exhibit.curve(
        list(states), {oracle: list(states.values())}, title="where the two part",
        x_axis="layer", y_axis="distance of hidden states",
    )  # fmt: skip
    found, floor = worst(logits.values()), worst(stored.values())
    says = exhibit.measured(f"distance from {oracle}' logits", found, should_be=BOUND)
    beside_storage = "less" if found <= floor else "more"

    assert found <= BOUND, (
        f"{says} [{directory.name}: states part at layer {outcome.first}; {beside_storage} than "
        f"rounding the weights costs ({floor:.1e})]"
    )
