"""Experiment 7: the memory that a model needs."""

import gc
from collections import Counter

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache

from fixtures.doubles.instruments import count_a_byte_a_weight
from llm_spec.model import dry_run, growth
from llm_spec.model.accounting import total_bytes
from llm_spec.model.declare import declare, published
from llm_spec.numerics.units import show_size
from llm_spec.performance import materialise, memory

GIB = 2**30
CONTEXT = 2048


def keep_keys_for_every_head(shape):
    many = {**shape.config, "num_key_value_heads": shape.config["num_attention_heads"]}
    return {"shape": shape.replacing(packed=declare(many))}


@pytest.mark.claim(id="7.10", falsifier=keep_keys_for_every_head)
def test_a_token_is_kept_as_one_key_and_one_value_per_layer_and_kv_head(shape, exhibit):
    """Bytes of the KV cache after 2,048 tokens, per token; no weight is materialised."""
    facts = shape.facts
    run = dry_run.dry_run(shape.packed, CONTEXT)
    exhibit.table(
        [["one token", run.used / CONTEXT / 1e6], [f"{CONTEXT:,} tokens", run.used / 1e6],
         ["the weights", total_bytes(shape.packed) / 1e6]],
        columns=["", "MB"],
        title=f"the cache of {shape.name} at 16 bits",
    )  # fmt: skip
    numbers = 2 * facts["layers"] * facts["n_kv_heads"] * facts["head_dim"]

    says = exhibit.measured("KV cache bytes per token", run.used / CONTEXT, should_be=2 * numbers)

    assert run.used == CONTEXT * 2 * numbers, says


class CacheInOtherSteps(KVCache):
    step = 100


def predict_other_steps(monkeypatch):
    def caches(model):
        return [CacheInOtherSteps() for _ in model.layers]

    monkeypatch.setattr(growth, "make_prompt_cache", caches)


@pytest.mark.claim(id="7.11", falsifier=predict_other_steps)
def test_cache_bytes_are_predicted_exactly(subject, exhibit):
    """KV caches are allocated in steps of 256 tokens: the lengths lie around a step."""
    lengths = [(5, 2), (254, 3), (257, 1)]  # tokens read, tokens made
    predicted = [memory.predict(subject.model, *each).cache for each in lengths]
    real = [real_cache_bytes(subject.model, *each) for each in lengths]
    exhibit.add(
        "memory",
        "caches",
        rows=[
            {
                "name": f"{sum(each)} tokens",
                "predicted": p,
                "measured": r,
                "how": "nbytes of the caches",
            }
            for each, p, r in zip(lengths, predicted, real, strict=True)
        ],
    )

    assert len(set(real)) > 1, f"{real} bytes do not grow, but should grow by a step"
    for each, bytes_predicted, bytes_held in zip(lengths, predicted, real, strict=True):
        says = exhibit.measured(
            f"KV cache predicted for {each[0]} + {each[1]} tokens",
            show_size(bytes_predicted, bytes_held),
            should_be=f"measured {show_size(bytes_held, bytes_predicted)}",
        )  # fmt: skip
        assert bytes_predicted == bytes_held, says


def real_cache_bytes(model, prompt, generated):
    """Bytes of the caches after mlx-lm has generated tokens."""
    caches = memory.make_prompt_cache(model)
    steps = memory.generate_step(
        mx.zeros(prompt, mx.int32), model, max_tokens=generated, prompt_cache=caches
    )
    for _ in steps:
        pass
    return sum(cache.nbytes for cache in caches)


@pytest.mark.claim(id="7.12", falsifier=count_a_byte_a_weight)
def test_weights_and_cache_are_what_stays_allocated(trained, exhibit):
    """Predicted from shapes alone, against what MLX's allocator holds after a generation."""
    predicted, measured = predicted_and_measured(trained, prompt=48, generated=8, exhibit=exhibit)
    ratio = predicted.resident / measured.resident

    says = exhibit.measured("predicted over measured", ratio, should_be="0.95 to 1.05")

    assert 0.95 <= ratio <= 1.05, says


def forget_intermediate_results(monkeypatch):
    monkeypatch.setattr(memory, "working_set", lambda model, calls, fused: lambda step: 0)


BY_THE_GRAPH = (
    "mlx 0.32.4 on CUDA keeps the intermediate results of a whole graph of operations until all "
    "are done: up to 2.7 times the predicted peak, but 0.94 to 1.01 times with one operation a "
    "graph (docs/measured.md)"
)


@pytest.mark.claim(id="7.13", falsifier=forget_intermediate_results)
def test_the_peak_while_a_prompt_is_read_is_predicted_within_a_twentieth(trained, exhibit):
    """The peak comes during prefill: every layer's results, and on a CPU all attention scores."""
    predicted, measured = predicted_and_measured(trained, prompt=769, generated=2, exhibit=exhibit)
    ratio = predicted.peak / measured.peak

    says = exhibit.measured("predicted over measured", ratio, should_be="0.95 to 1.05")

    if mx.cuda.is_available() and ratio < 0.95:
        pytest.xfail(BY_THE_GRAPH)
    assert 0.95 <= ratio <= 1.05, says


def predicted_and_measured(subject, prompt, generated, exhibit):
    """Both, recorded side by side."""
    try:
        measured = memory.measure_memory(subject.model, prompt, generated)
    except memory.NoCounters as error:
        pytest.skip(str(error))
    predicted = memory.predict(subject.model, prompt, generated)
    rows = [
        ("weights", predicted.weights, None, ""),
        ("caches", predicted.cache, None, ""),
        ("stays allocated", predicted.resident, measured.resident, "mx.get_active_memory"),
        ("peak", predicted.peak, measured.peak, "mx.get_peak_memory"),
        ("resident set of the process", None, measured.rss, "psutil: code, libraries and arrays"),
    ]
    keys = ("name", "predicted", "measured", "how")
    exhibit.add(
        "memory",
        f"{prompt} tokens read and {generated} made",
        rows=[dict(zip(keys, row, strict=True)) for row in rows],
    )
    return predicted, measured


def small_shape():
    """A declared model that is quick to fill: SmolLM2 at 4 bits, 76 MB."""
    return declare(published()["smollm2-135m"].config)


def allow_ten_times_the_room(monkeypatch):
    monkeypatch.setattr(materialise, "SLACK", 0.1)


@pytest.mark.claim(id="7.14", falsifier=allow_ten_times_the_room)
def test_a_model_without_room_is_refused_before_it_takes_any(exhibit):
    """One byte less than needed is free; the error says what is needed and what is free."""
    model = small_shape()
    room = memory.predict(model, 1, 1).peak - 1
    gc.collect()  # what other specs left must not go meanwhile
    before = mx.get_active_memory()
    try:
        materialise.materialise(model, free=room)
        refusal = "none"
    except materialise.DoesNotFit as error:
        refusal = str(error)
    exhibit.text(refusal, title=f"filling a model with room for {room:,} bytes")
    taken = mx.get_active_memory() - before

    says = exhibit.measured("bytes taken", taken, should_be="0, and a refusal")

    assert "are needed" in refusal, says
    assert taken == 0, says


def make_floats_and_pack_them(monkeypatch):
    def through_floats(array, seed):
        floats = mx.random.uniform(shape=(8, array.size), key=mx.random.key(seed))
        return mx.sum(floats, axis=0).astype(array.dtype).reshape(array.shape)

    monkeypatch.setattr(materialise, "_bits", through_floats)


@pytest.mark.claim(id="7.15", falsifier=make_floats_and_pack_them)
def test_filling_a_declared_model_takes_its_bytes_and_no_more(exhibit):
    """Random bits are made as they are stored: no float copy of a matrix ever exists."""
    model = small_shape()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    materialise.materialise(model)
    taken, peak = mx.get_active_memory() - before, mx.get_peak_memory() - before
    sizes = Counter(array.nbytes for _, array in tree_flatten(model.parameters()))
    needed = sum(count * granted(size) for size, count in sizes.items())
    rows = [
        {"name": "filled", "predicted": needed, "measured": taken, "how": "mx.get_active_memory"},
        {"name": "peak", "predicted": needed, "measured": peak, "how": "mx.get_peak_memory"},
    ]
    exhibit.add("memory", "filling SmolLM2's shape at 4 bits", rows=rows)
    ratio = max(taken, peak) / needed

    says = exhibit.measured(
        "peak or final memory over declared bytes", ratio, should_be="0.999 to 1.001"
    )

    assert 0.999 <= ratio <= 1.001, says


def granted(size):
    """Bytes that the allocator takes for an array of `size` bytes: on CUDA it rounds up."""
    mx.clear_cache()
    before = mx.get_active_memory()
    array = mx.zeros(size, mx.uint8) + mx.array(1, mx.uint8)
    mx.eval(array)
    mx.synchronize()
    return mx.get_active_memory() - before
