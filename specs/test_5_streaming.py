"""Experiment 5: head statistics over a long context, and the cost of a trace."""

import time

import mlx.core as mx
import numpy as np
import pytest

from llm_spec.model.config import text_config
from llm_spec.numerics import tolerances
from llm_spec.numerics.distances import worst
from llm_spec.observe import head_statistics
from llm_spec.observe import trace as tracing
from llm_spec.observe.head_statistics import attention_statistics
from llm_spec.observe.trace import trace

IDS = [7, 203, 7, 19, 5, 211, 7, 203, 7, 19, 5, 211, 42, 8]
ROWS = 3  # queries looked at at once; the last block of a layer is a shorter one
LONG, SHORT = 2048, 256
ROUNDS = 9


def count_queries_that_show_nothing(monkeypatch):
    monkeypatch.setattr(
        head_statistics, "_mean", lambda rows: np.nan_to_num(rows).mean(axis=(0, 2))
    )


@pytest.mark.claim(id="5.36", falsifier=count_queries_that_show_nothing)
def test_statistics_of_heads_are_those_of_their_whole_maps(subject, exhibit, monkeypatch):
    """Each statistic by its definition, from whole maps, beside the block-by-block one."""
    maps = trace(subject.model, IDS).attention
    heads = maps[0].shape[0]
    monkeypatch.setattr(head_statistics, "BLOCK_BYTES", 4 * heads * len(IDS) * ROWS)
    streamed = attention_statistics(subject.model, IDS).layers
    apart = {}
    for layer, seen in zip(maps, streamed, strict=True):
        for name, expected in by_definition(layer.astype(np.float64)).items():
            missed = np.abs(getattr(seen, name) - expected).max() / len(IDS)
            apart[name] = worst([apart.get(name, 0.0), float(missed)])
    exhibit.bars(apart, title="streamed against kept maps", axis="largest difference per key")
    allowed = len(IDS) * float(np.finfo(np.float32).eps)  # each of the weights rounds

    missed = worst(apart.values())

    says = exhibit.measured("largest difference", missed, f"at most {allowed:.1e}")

    assert missed <= allowed, says


def by_definition(maps):
    """(heads, queries, keys) to the statistics of each head."""
    later = range(1, len(IDS))
    surprise = -maps * np.log(np.maximum(maps, np.finfo(np.float32).tiny))
    back = [[q - k for k in range(len(IDS))] for q in range(len(IDS))]
    followed = {
        q: [k for k in range(1, q + 1) if IDS[k - 1] == IDS[q]] for q in later
    }  # what came after the same token
    return {
        "entropy": surprise.sum(-1).mean(-1),
        "first_token": np.mean([maps[:, q, 0] for q in later], axis=0),
        "previous_token": np.mean([maps[:, q, q - 1] for q in later], axis=0),
        "induction": np.mean(
            [maps[:, q, keys].sum(-1) for q, keys in followed.items() if keys], axis=0
        ),
        "distance": (maps * back).sum(-1).mean(-1),
    }


def keep_two_layers(monkeypatch):
    look, kept = head_statistics._look, []

    def keeping(call, *arguments):
        if call.layer < 2:
            kept.append(mx.zeros(call.shape))
            mx.eval(kept[-1])
        return look(call, *arguments)

    monkeypatch.setattr(head_statistics, "_look", keeping)


@pytest.mark.slow
@pytest.mark.claim(id="5.37", falsifier=keep_two_layers)
def test_statistics_of_a_long_context_need_the_memory_of_one_layers_maps(embedded, exhibit):
    """MLX's peak memory beyond the weights; keeping all maps would take one map per layer."""
    model, ids = embedded.model, random_ids(embedded, LONG)
    mx.eval(model.parameters())
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    seen = attention_statistics(model, ids)
    extra = mx.get_peak_memory() - before
    heads = len(seen.layers[0].entropy)
    maps = heads * LONG * LONG * mx.float32.size
    rows = [["one layer's maps", maps / 1e6], ["most at once", extra / 1e6]]
    exhibit.table(rows, columns=["", "MB"], title=f"{LONG:,} tokens, {len(seen.layers)} layers")

    says = exhibit.measured(
        "peak memory over that of one layer's maps", extra / maps, "at most 1.3"
    )

    if before == 0:
        pytest.skip("MLX does not count memory on this device")
    assert None not in seen.layers, "layers without statistics, but should be none"
    assert worst(seen.reconstruction_errors) <= tolerances.reconstruction(mx.float32, keys=LONG)
    assert extra <= 1.3 * maps, says


def random_ids(subject, count):
    size = text_config(subject.config)["vocab_size"]
    return np.random.default_rng(0).integers(20, size, count).tolist()


def look_twice(monkeypatch):
    def twice(*arguments, **options):
        trace(*arguments, **options)
        return trace(*arguments, **options)

    monkeypatch.setattr(tracing, "trace", twice)


@pytest.mark.idle
@pytest.mark.claim(id="5.38", falsifier=look_twice)
def test_a_trace_costs_a_tenth_of_a_pass_and_a_quarter_with_every_map_verified(embedded, exhibit):
    """All maps and states over a plain pass of 256 tokens, in turns; the best of 9 each."""
    model, ids = embedded.model, random_ids(embedded, SHORT)
    batch = mx.array([ids])
    ways = {
        "plain": lambda: mx.eval(model(batch)),
        "traced": lambda: tracing.trace(model, ids, verify=False),
        "verified": lambda: tracing.trace(model, ids),
    }
    for way in ways.values():
        way()
    rounds = [[seconds(way) for way in ways.values()] for _ in range(ROUNDS)]
    times = dict(zip(ways, zip(*rounds, strict=True), strict=True))
    best = {name: min(taken) for name, taken in times.items()}
    exhibit.bars(best, title=f"a pass over {SHORT} tokens", axis="seconds")
    # The best is known as well as it was reached twice.
    noise = max(sorted(taken)[1] / min(taken) - 1 for taken in times.values())
    traced, verified = best["traced"] / best["plain"], best["verified"] / best["plain"]

    says = exhibit.measured(
        "time of a traced and of a verified pass, over a plain pass",
        f"{traced:.2f}, {verified:.2f}", should_be="at most 1.10, 1.25",
    )  # fmt: skip

    if 1.1 < traced <= 1.1 * (1 + noise) or 1.25 < verified <= 1.25 * (1 + noise):
        exhibit.inconclusive(f"the best time of a pass was missed by {noise:.0%} the second time")
    assert traced <= 1.1, says
    assert verified <= 1.25, says


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
