"""Experiment 11: what a base configuration never reaches, one switch at a time.

Every variant of `fixtures/oracle/variants.toml` is held to transformers, as its base is: rope
scaling of each kind, windows, layer types, tied and untied, biases, activations, soft caps, clips,
and the options of routers and states. `pytest specs/test_11_variants.py -m slow --architectures
--oracle transformers` takes all; without it two are held.
"""

import pytest

from fixtures.oracle import variants
from fixtures.oracle.mends import faults
from fixtures.oracle.verdict import compared, hold
from llm_spec.oracle.pair import BOUND


def drop_the_rope_scaling(varied):
    return {"varied": varied.under(faults.rope_scaling_is_dropped)}


@pytest.mark.slow
@pytest.mark.claim(id="11.8", falsifier=drop_the_rope_scaling)
def test_with_a_switch_turned_mlx_lm_computes_the_logits_of_transformers(varied, exhibit):
    """Whole prompts of 7, 24, 64 and 100 tokens. The switch must turn transformers' own logits."""
    variant, outcome = varied.variant, varied.outcome
    refusal = variant.refused.get(varied.model_type)
    if refusal and outcome.ended == "not loaded" and refusal in outcome.says:
        pytest.skip(f"mlx-lm refuses it: {outcome.says}")
    compared(varied.model_type, outcome, exhibit)
    assert not refusal, f"{varied.model_type} is loaded now: take it out of the variant's refused"
    exhibit.measured(
        "distance of transformers from its base", outcome.turned, should_be=f"more than {BOUND}"
    )
    turns = outcome.turned > BOUND or varied.explained is not None
    assert turns, f"{variant.name} turns nothing in {varied.model_type}: take it out"
    hold(outcome, ["whole"], varied.explained, exhibit, (varied.model_type, variant.name))


def publish_another_switch(monkeypatch):
    monkeypatch.setattr(variants, "_alike", lambda ours, theirs: not theirs)


@pytest.mark.claim(id="11.9", falsifier=publish_another_switch)
def test_a_published_model_states_the_switch_that_its_variant_turns(exhibit):
    """What was read of a published model has each setting that the variant changes: switches and
    names as the variant has them, sizes in the model's own."""
    stated = {v.name: v for v in variants.variants().values() if v.published}
    missing = {
        name: gone for name, variant in stated.items()
        if (gone := variants.unstated(variant.changes, variant.published.states))
    }  # fmt: skip
    exhibit.table(
        [[name, v.published.model, v.published.source] for name, v in stated.items()],
        columns=["variant", "published in", "read in"], title="variants that models have",
    )  # fmt: skip
    says = exhibit.measured("switches that no file states", missing, should_be={})

    assert len(stated) >= 5, f"{len(stated)} variants name a published model"
    assert not missing, says
