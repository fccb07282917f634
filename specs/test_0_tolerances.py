"""Experiment 0: the noise of this device, against the derived tolerances."""

import mlx.core as mx
import numpy as np
import pytest

from fixtures.doubles.tampered import TamperedModel
from llm_spec.numerics import tolerances

IDS = [7, 203, 7, 19, 5, 211, 42]  # for models without a tokenizer


def drift(subject):
    passes = iter(range(1000))
    model = TamperedModel(subject.model, lambda logits: logits * (1 + next(passes)))
    return {"subject": subject.replacing(model=model)}


@pytest.mark.claim(id="0.41", falsifier=drift)
def test_a_repeated_pass_lies_closer_to_itself_than_any_tolerance_allows(subject, exhibit):
    """Logits of one text, computed five times. On a CPU their distance is 0."""

    def logits():
        return np.array(subject.model(mx.array([IDS]))[0].astype(mx.float32))

    noise = tolerances.repeat_noise(logits, runs=5)
    exhibit.noise("logits of a repeated pass", noise)
    dtype = subject.model(mx.array([IDS])).dtype
    allowed = tolerances.reordered(dtype, len(subject.model.layers))
    exhibit.table([["measured", noise], ["allowed", allowed]], ["distance", "of a row's norm"],
                  title="a repeated pass")  # fmt: skip

    says = exhibit.measured("distance between repeats", noise, should_be=f"below {allowed:.2g}")

    assert np.linalg.norm(logits()) > 0, "logits = 0, but should be something to compare"
    assert tolerances.repeated(noise) < allowed, says
