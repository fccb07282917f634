"""Experiment 8: what quantisation costs a model, against its own float32 weights."""

import math
import time
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten
from mlx_lm.models.cache import make_prompt_cache

from fixtures.texts.passages import fingerprint, passages
from llm_spec.model import quantisation
from llm_spec.model.quantisation import FLOAT32, LADDER, Scheme
from llm_spec.quality import ladder, likelihood

QUICK = (Scheme("8 bits", 8, 64), Scheme("4 bits", 4, 64), Scheme("2 bits", 2, 64))
QUICK_BYTES = 260  # of one passage: enough for 50 predictions, little enough for a slow CPU


# ── Computing with it ─────────────────────────────────────────────────────────────────────────


def leave_out_the_biases(monkeypatch):
    product = mx.quantized_matmul

    def without(x, words, scales, biases, **options):
        return product(x, words, scales, mx.zeros_like(biases), **options)

    monkeypatch.setattr(mx, "quantized_matmul", without)


@pytest.mark.claim(id="8.9", falsifier=leave_out_the_biases)
def test_the_packed_product_equals_the_product_with_unpacked_weights(exhibit):
    """Relative to the sum of magnitudes, which bounds what another order of sums can change."""
    matrix = mx.random.normal((1536, 576), key=mx.random.key(1))
    x = mx.random.normal((4, matrix.shape[1]), key=mx.random.key(0))
    stored = mx.quantize(matrix, 64, 4)
    packed = mx.quantized_matmul(x, *stored, transpose=True, group_size=64, bits=4)
    unpacked = mx.dequantize(*stored, 64, 4)
    # on the CPU, for GPUs may round the factors of a float32 product to fewer digits
    expected = mx.matmul(x, unpacked.T, stream=mx.cpu)
    magnitude = mx.abs(x) @ mx.abs(unpacked).T
    apart = float((mx.abs(packed - expected) / magnitude).max())
    allowed = 2 * matrix.shape[1] * 2**-24  # two sums of so many float32 products
    exhibit.bars(
        {"bytes read": sum(a.nbytes for a in stored) / matrix.nbytes,
         "time": time_of_packed(matrix, stored)},
        title="one token's product: 4 bits over float32", axis="ratio",
    )  # fmt: skip

    says = exhibit.measured("relative difference", apart, should_be=f"at most {allowed:.1e}")

    assert float(mx.abs(packed).max()) > 0, "largest product = 0, but should be above 0"
    assert apart <= allowed, says


def time_of_packed(matrix, stored):
    """Time of one token's packed product over the float32 one; medians of interleaved rounds."""
    x = mx.random.normal((1, matrix.shape[1]), key=mx.random.key(0))
    mx.eval(x, matrix, stored)
    ways = (
        lambda: mx.quantized_matmul(x, *stored, transpose=True, group_size=64, bits=4),
        lambda: x @ matrix.T,
    )
    times = [[], []]
    for _ in range(9):
        for way, taken in zip(ways, times):
            start = time.perf_counter()
            mx.eval(way())
            taken.append(time.perf_counter() - start)
    return float(np.median(times[0]) / np.median(times[1]))


# ── What it costs ─────────────────────────────────────────────────────────────────────────────


LADDERS = {}  # quick ladders: one takes seconds, and three specs look at it
WHOLE = {}  # whole ladders: one takes minutes, and two specs look at it


def made_by(subject):
    """What a ladder depends on, besides its texts: the model and the rounding function."""
    return subject.name, ladder.round_trip


def ladder_of(subject):
    """A few schemes on the beginning of one passage."""
    if made_by(subject) not in LADDERS:
        text = beginning(subject.tokenizer)
        LADDERS[made_by(subject)] = ladder.climb(subject.unpacked, [text], QUICK)
    return LADDERS[made_by(subject)]


def beginning(tokenizer):
    return likelihood.encode(tokenizer, passages("prose")["prose"][:QUICK_BYTES])


def show_ladder(exhibit, rungs, title, speeds):
    exhibit.add(
        "ladder", title, reference="the same weights in float32",
        passages=fingerprint(passages()),
        rungs=[rung.as_dict(speeds.get(rung.scheme.name, (None,))[0]) for rung in rungs],
    )  # fmt: skip


def store_as(monkeypatch, rounding):
    """Plant another way to round: `rounding(weight, scheme)`, both as `round_trip` takes them."""
    monkeypatch.setattr(ladder, "round_trip", rounding)


def round_a_little(monkeypatch):
    store_as(monkeypatch, lambda weight, _: weight.astype(mx.bfloat16).astype(mx.float32))


@pytest.mark.claim(id="8.11", falsifier=round_a_little)
def test_a_model_does_not_diverge_from_itself(embedded, exhibit):
    """The control of the ladder: weights are taken out and put back unchanged."""
    (same,) = ladder.climb(embedded.unpacked, [beginning(embedded.tokenizer)], [FLOAT32])

    says = exhibit.measured(
        "largest KL (nats) and flips", (same.divergence.max_kl, same.divergence.flips),
        should_be=(0.0, 0),
    )  # fmt: skip

    assert (same.divergence.max_kl, same.divergence.flips) == (0, 0), says


def as_it_is(weight, scheme):
    return weight


def quantise_nothing(monkeypatch):
    store_as(monkeypatch, as_it_is)


@pytest.mark.claim(id="8.12", falsifier=quantise_nothing)
def test_every_quantised_model_diverges(embedded, exhibit):
    """A rung without divergence is not lossless; it was never quantised."""
    ladder = ladder_of(embedded)
    show_ladder(exhibit, ladder, "three rungs, on the beginning of one passage", {})
    costs = [rung.divergence.mean_kl for rung in ladder]

    says = exhibit.measured(
        "mean KL (nats) of the rungs", ", ".join(f"{cost:.3g}" for cost in costs),
        should_be="over 1e-5 each",
    )  # fmt: skip

    assert all(cost > 1e-5 for cost in costs), says


def store_eight_bits_as_two(monkeypatch, embedded):
    rightly = ladder_of(embedded)[1:]  # at 4 and 2 bits
    round_trip = quantisation.round_trip
    store_as(monkeypatch, lambda weight, scheme: round_trip(weight, replace(scheme, bits=2)))
    (coarser,) = ladder.climb(embedded.unpacked, [beginning(embedded.tokenizer)], QUICK[:1])
    monkeypatch.setitem(LADDERS, made_by(embedded), [coarser, *rightly])


@pytest.mark.claim(id="8.13", falsifier=store_eight_bits_as_two)
def test_fewer_bits_diverge_more(embedded, exhibit):
    """Mean KL on the same positions; doubling a step quadruples the mean squared error."""
    ladder = ladder_of(embedded)
    costs = [rung.divergence.mean_kl for rung in ladder]
    exhibit.bars(
        {rung.scheme.name: rung.divergence.mean_kl for rung in ladder},
        title="divergence from float32", axis="mean KL (nats per token)",
    )  # fmt: skip

    says = exhibit.measured(
        "mean KL at 8, 4 and 2 bits", ", ".join(f"{cost:.3g}" for cost in costs),
        should_be="rising, at least fourfold from rung to rung",
    )  # fmt: skip

    assert all(more > 4 * less for less, more in pairwise(costs)), says


@pytest.mark.claim(id="8.14", falsifier=quantise_nothing)
def test_four_bits_leave_a_language_model_and_two_bits_do_not(embedded, exhibit):
    """Bits per byte, against the best table of letter pairs for the passages."""
    pairs = likelihood.bigram_bits_per_byte(passages().values())
    ladder = ladder_of(embedded)
    costs = {rung.scheme.name: rung.bits_per_byte for rung in ladder}
    exhibit.bars(
        {**costs, "letter pairs": pairs}, title="cost of the passage", axis="bits per byte"
    )

    four, two = (rung.bits_per_byte for rung in ladder[1:])

    says = exhibit.measured(
        "bits per byte at 4 and at 2 bits", f"{four:.2f} and {two:.2f}",
        should_be=f"under and over the {pairs:.2f} of letter pairs",
    )  # fmt: skip

    assert four < pairs < two, says


def climb_all(subject):
    """The whole ladder on all passages; takes minutes."""
    if made_by(subject) not in WHOLE:
        texts = [likelihood.encode(subject.tokenizer, text) for text in passages().values()]
        WHOLE[made_by(subject)] = ladder.climb(subject.unpacked, texts, LADDER)
    return WHOLE[made_by(subject)]


def speeds_of(model, scheme, rounds=5):
    """Tokens per second with packed weights and with float32 weights, in turn; medians.

    Scales stay in float32: MLX's CPU backend is slow at 16-bit floating point.
    """
    matrices = [(name, m) for name, m in model.named_modules() if hasattr(m, "to_quantized")]
    packed = [
        (name, m.to_quantized(scheme.group_size, scheme.bits, mode=scheme.mode))
        for name, m in matrices
    ]
    caches, times = (make_prompt_cache(model), make_prompt_cache(model)), ([], [])
    try:
        for token in range(100, 101 + rounds):
            for modules, cache, taken in zip((packed, matrices), caches, times):
                model.update_modules(tree_unflatten(modules))
                start = time.perf_counter()
                mx.eval(model(mx.array([[token]]), cache=cache))
                taken.append(time.perf_counter() - start)
    finally:
        model.update_modules(tree_unflatten(matrices))
    return tuple(1 / float(np.median(taken[1:])) for taken in times)


def climb_a_flat_ladder(monkeypatch, embedded):
    rungs = ladder.climb(embedded.unpacked, [beginning(embedded.tokenizer)], [FLOAT32])
    flat = [replace(rungs[0], scheme=scheme) for scheme in LADDER]
    monkeypatch.setitem(WHOLE, made_by(embedded), flat)


@pytest.mark.idle
@pytest.mark.claim(id="8.15", falsifier=climb_a_flat_ladder)
def test_each_bit_taken_away_multiplies_the_divergence_by_about_four(embedded, exhibit):
    """Halving the number of steps doubles the error, and KL grows with its square. The whole
    ladder, on all passages; bits per byte need not rise with every bit, for they also hold luck."""
    rungs, model = climb_all(embedded), embedded.unpacked
    speeds = {s.name: speeds_of(model, s) for s in LADDER if s.mode != "float"}
    show_ladder(exhibit, rungs, "the whole ladder, on all passages", speeds)
    exhibit.bars(
        {name: packed / whole for name, (packed, whole) in speeds.items()},
        title="speed of the packed model, measured in turn with float32",
        axis="tokens per second over those of float32",
    )
    kl = {rung.scheme.name: rung.divergence.mean_kl for rung in rungs}
    named = [kl.get(f"{bits} bits", math.nan) for bits in (6, 5, 4, 3)]
    factors = [more / less if less else math.nan for less, more in pairwise(named)]

    says = exhibit.measured(
        "factors of mean KL from 6 to 5, 4 and 3 bits", ", ".join(f"{f:.2f}" for f in factors),
        should_be="between 3 and 6 each",
    )  # fmt: skip

    assert all(3 < factor < 6 for factor in factors), says


def store_mxfp4_unrounded(monkeypatch, embedded):
    def but_for_mxfp4(weight, scheme):
        return weight if scheme.mode == "mxfp4" else quantisation.round_trip(weight, scheme)

    store_as(monkeypatch, but_for_mxfp4)
    text = beginning(embedded.tokenizer)  # the fault shows on any text
    rungs = ladder.climb(embedded.unpacked, [text], LADDER)
    monkeypatch.setitem(WHOLE, made_by(embedded), rungs)


@pytest.mark.idle
@pytest.mark.claim(id="8.20", falsifier=store_mxfp4_unrounded)
def test_every_rung_diverges_and_the_affine_ones_in_order(embedded, exhibit):
    """Only rungs of one kind have an order: mxfp4 and affine 4 bits round to different grids."""
    rungs = {rung.scheme: rung for rung in climb_all(embedded)}
    exhibit.table(
        [[r.scheme.name, r.n_bytes / 1e6, r.bits_per_byte, r.divergence.mean_kl,
          r.divergence.p99_kl, 100 * (1 - r.divergence.top1_agreement)] for r in rungs.values()],
        columns=["stored as", "MB", "bits per byte", "mean KL (nats)", "p99 KL", "flips (%)"],
        title=f"{rungs[FLOAT32].divergence.positions:,} positions, paired with float32",
    )  # fmt: skip
    costs = {scheme: rung.divergence.mean_kl for scheme, rung in rungs.items()}
    never = [scheme.name for scheme in LADDER if scheme != FLOAT32 and not costs[scheme] > 0]
    unordered = [
        f"{more.name} before {fewer.name}"
        for more, fewer in pairwise(quantisation.AFFINE)
        if costs[more] >= costs[fewer]
    ]

    says = exhibit.measured(
        "divergence of float32, rungs without divergence, affine rungs out of order",
        (costs[FLOAT32], never, unordered), should_be=(0.0, [], []),
    )  # fmt: skip

    assert (costs[FLOAT32], never, unordered) == (0, [], []), says
