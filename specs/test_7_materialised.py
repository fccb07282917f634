"""Experiment 7: real sizes with random weights: the plan's models, measured without a download.

Neither speed nor memory depends on what the weights are, so a model's shape is filled with random
ones and run. `llm-spec measure` prints the same figures for more lengths and widths.
"""

import gc

import mlx.core as mx
import pytest

from fixtures.doubles import instruments
from llm_spec.model.declare import declare, published
from llm_spec.numerics.device import device_name
from llm_spec.performance import bandwidth, chips, materialise, memory, roofline, speed

# Tokens read and made. A CPU multiplies packed matrices slowly, and its memory tells as much.
LENGTHS = (4, 4) if mx.default_device() == mx.cpu else (128, 32)


def filled(shape):
    """The shape's model at 4 bits with random weights; skips where it has no room."""
    gc.collect()  # the model of the spec before
    mx.clear_cache()
    on_gpu = mx.default_device().type == mx.gpu
    model = declare(shape.config, dtype=mx.bfloat16 if on_gpu else mx.float32)
    try:
        materialise.materialise(model, *LENGTHS)
    except materialise.DoesNotFit as error:
        pytest.skip(str(error))
    return model


def small(shape):
    """SmolLM2's size in place of a large one: a fault shows in it as well, and sooner."""
    return {"shape": shape.replacing(config=published()["smollm2-135m"].config)}


def count_a_byte_a_weight(monkeypatch, shape):
    instruments.count_a_byte_a_weight(monkeypatch)
    return small(shape)


@pytest.mark.idle
@pytest.mark.claim(id="7.41", falsifier=count_a_byte_a_weight)
def test_the_memory_of_the_plans_models_is_predicted(shape, exhibit):
    """Weights and KV cache predicted from the shape, against memory during and after decode."""
    model = filled(shape)
    predicted = memory.predict(model, *LENGTHS)
    try:
        measured = memory.measure_memory(model, *LENGTHS)
    except memory.NoCounters as error:
        pytest.skip(str(error))
    how = {"what stays": "mx.get_active_memory", "the peak while writing": "mx.get_peak_memory"}
    taken = dict(zip(how, (measured.resident, measured.decode_peak), strict=True))
    exhibit.add(
        "memory",
        f"{shape.name}, filled: {LENGTHS[0]} tokens read and {LENGTHS[1]} made",
        rows=[
            {"name": n, "predicted": predicted.resident, "measured": m, "how": how[n]}
            for n, m in taken.items()
        ],
    )
    ratios = [predicted.resident / each for each in taken.values()]

    says = exhibit.measured(
        "predicted over measured, what stays and the peak while writing",
        " and ".join(f"{ratio:.3f}" for ratio in ratios), should_be="0.95 to 1.05",
    )  # fmt: skip

    assert all(0.95 <= ratio <= 1.05 for ratio in ratios), says


def run_the_clock_slowly(monkeypatch, shape):
    instruments.run_the_clock_slowly(monkeypatch)
    return small(shape)


@pytest.mark.idle
@pytest.mark.claim(id="7.42", falsifier=run_the_clock_slowly)
def test_the_plans_models_decode_no_faster_than_their_bytes_are_read(shape, exhibit):
    """Tokens per second hold for this machine only; the share of the ceiling may hold elsewhere."""
    model, streaming = filled(shape), bandwidth.streaming()
    read = roofline.decode_read(model, sum(LENGTHS)).total
    prompt = speed.token_ids(LENGTHS[0], shape.config["vocab_size"])
    speed.run_once(model, prompt, 2)
    before = streaming.sample(rounds=5)
    rate = speed.run_once(model, prompt, LENGTHS[1]).decode
    after = streaming.sample(rounds=5)
    ceiling = max(before.best, after.best) / read
    chip = chips.here()
    exhibit.table(
        [["read per token", read / 1e9, "GB"], ["measured", rate, "tok/s"],
         ["at most, by the bandwidth measured", ceiling, "tok/s"],
         ["at most, by the bandwidth published", chip and chip.bandwidth / read,
          chip.name if chip else "unknown chip"], ["share reached", 100 * rate / ceiling, "%"]],
        columns=[f"{shape.name} at 4 bits on {device_name()}", "", "unit"],
        title="decoding a model of this size",
    )  # fmt: skip

    says = exhibit.measured("share of the ceiling", rate / ceiling, should_be="above 0, at most 1")

    assert 0 < rate / ceiling <= 1, says
