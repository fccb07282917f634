"""Experiment 0: no law holds for a model that computes NaN."""

import pytest

from fixtures import planted
from fixtures.doubles.not_a_number import WAYS, not_a_number
from fixtures.synthetic.architectures import build_architecture
from llm_spec.laws import LAWS, Case
from llm_spec.numerics import distances

OF_WEIGHTS = ("weights_are_finite",)  # they are: only what is computed of them is not
OF_TOKENS = (
    "rows_keep_their_samplers",
    "text_ends_at_its_end",
    "processors_see_everything",
    "a_batch_stops_at_its_stop_tokens",
    "answers_keep_their_order",
    "layers_and_caches_are_counted",
    "generation_quantises_its_cache",
    "generation_quantises_by_default",
)
"""What is chosen, counted or handed on: they look at no logit but to take the largest."""
IN_ONE_PASS = ("configuration", "experts", "rotary", "storage")
"""Modules of laws that never feed a cache or a batch."""


def lose_a_nan(monkeypatch):
    monkeypatch.setattr(distances, "worst", lambda values: max((0.0, *values)))


@pytest.mark.slow
@pytest.mark.claim(id="0.63", falsifier=lose_a_nan)
def test_no_law_holds_where_the_model_computes_nan(exhibit):
    """A tiny llama whose embeddings are NaN when it is fed in one way, held to every law. A law
    that does not feed it so has nothing to tell; nor has one that compares tokens, not numbers."""
    rows, wrong = [], []
    for way, fed in WAYS.items():
        model, config = build_architecture("llama")
        findings = []
        for law in LAWS:
            if way != "always" and law.__module__.endswith(IN_ONE_PASS):
                continue
            with not_a_number(model, fed) as passes:
                finding = law(Case(model, planted.PROMPT, config))
            if passes:
                findings.append(finding)
        compare = [f for f in findings if way == "always" or f.law not in OF_TOKENS]
        held = [f.law for f in compare if f.holds and f.law not in OF_WEIGHTS]
        refuted = [f.law for f in compare if f.holds is False]
        rows.append([way, len(compare), len(refuted), ", ".join(held)])
        wrong += [f"{name} when {way}" for name in held]
    exhibit.table(
        rows, columns=["NaN", "laws that met it", "refuted", "held"], title="laws that meet NaN"
    )
    fewest = min(row[1] for row in rows)

    says = exhibit.measured("laws that hold for NaN", wrong, should_be=[])

    assert fewest >= 3, f"laws that meet the rarest NaN = {fewest}, but should be 3 or more"
    assert not wrong, says
