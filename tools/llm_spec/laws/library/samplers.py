"""Laws of mlx-lm's samplers and logits processors: each keeps exactly the set that defines it.

Seeded distributions, some with ties, in batches whose rows differ: what one row keeps must not
depend on another. Definitions in float64 are in `llm_spec.numerics.sampling`, and share no code
with mlx-lm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
from mlx_lm import sample_utils

from llm_spec.laws.finding import Finding, law, same
from llm_spec.model.declare import random_state_kept
from llm_spec.numerics import sampling

SIZE, ROWS = 320, 3
EPS = float(np.finfo(np.float32).eps)
HISTORY = [42, 7, 300, 7, 19, 5, 7, 211]  # one token three times
BOOSTED = 30  # tokens with the chance to be drawn; all others are 20 nats away


def distributions() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, vocabulary) log-probabilities in float32 and the probabilities in float64."""
    for seed, step in ((0, None), (1, None), (2, 0.5)):
        rng = np.random.default_rng(seed)
        logits = rng.standard_normal((ROWS, SIZE)) * np.array([[1.0], [2.0], [4.0]])
        logits = logits if step is None else np.round(logits / step) * step  # with ties
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        probabilities = np.stack([sampling.softmax(row) for row in logprobs.astype(np.float32)])
        yield logprobs.astype(np.float32), probabilities


@contextmanager
def uncompiled() -> Iterator[None]:
    """Filters as they are written: MLX compiles each setting anew, which takes a second."""
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def survivors(logprobs: np.ndarray | mx.array, temp: float = 0.7, **settings: Any) -> np.ndarray:
    """Which tokens the filters of a sampler with these settings hand on to the draw.

    `logprobs` are (rows, vocabulary) of any floating type; the result is booleans of that shape.
    """
    handed_on: list[np.ndarray] = []

    def look(filtered: mx.array, temp: float) -> mx.array:
        handed_on.append(np.isfinite(np.array(filtered.astype(mx.float32))))
        return mx.argmax(filtered, axis=-1)

    with mock.patch.object(sample_utils, "categorical_sampling", look), uncompiled():
        sample_utils.make_sampler(temp=temp, **settings)(mx.array(logprobs))
    return handed_on[0]


Between = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _between(
    keep: Callable[[np.ndarray, float], np.ndarray], a: float, b: float, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return keep(row, a), keep(row, b)


def _wrong(settings: dict[str, Any], least_and_most: Between) -> list[str]:
    """Rows whose survivors are not between two sets: the definition, give or take rounding."""
    wrong = []
    for logprobs, probabilities in distributions():
        kept = survivors(logprobs, **settings)
        for row, probability in zip(kept, probabilities, strict=True):
            least, most = least_and_most(probability)
            if not ((least <= row).all() and (row <= most).all()):
                wrong.append(f"{row.sum()} of {least.sum()} to {most.sum()} tokens with {settings}")
    return wrong


@law
def top_k_keeps_k() -> Finding:
    """Top-k keeps exactly k tokens, none of them less likely than a dropped token."""
    return keeps_the_likeliest(distributions(), (1, 2, 10, SIZE - 1))


def keeps_the_likeliest(
    distributions: Iterable[tuple[np.ndarray, np.ndarray]], sizes: Iterable[int]
) -> Finding:
    """Whether top-k keeps k tokens and none that is less likely than one it drops, at each size k.

    `distributions` are (rows, vocabulary) log-probabilities in float32 with the same in float64.
    """
    wrong = [
        f"{row.sum()} tokens with k = {k}"
        for logprobs, probabilities in distributions
        for k in sizes
        for row, probability in zip(survivors(logprobs, top_k=k), probabilities, strict=True)
        if not sampling.is_top_k(row, probability, k)
    ]
    return same("rows that keep other tokens", wrong[:3], [])


@law
def top_p_keeps_the_nucleus() -> Finding:
    """Top-p keeps the smallest set of most likely tokens that reaches p, to a sum's rounding."""
    slack = SIZE * EPS / 2
    wrong: list[str] = []
    for p in (0.1, 0.5, 0.9, 0.99):
        wrong += _wrong(
            {"top_p": p},
            functools.partial(_between, sampling.top_p, p - slack, p + slack),
        )
    return same("rows that keep other tokens", wrong[:3], [])


@law
def min_p_keeps_the_likely() -> Finding:
    """Min-p keeps the tokens at least p times as likely as the most likely one, at any
    temperature."""
    wrong: list[str] = []
    for p in (0.01, 0.05, 0.2, 0.5):
        for temp in (0.3, 1.0, 3.0):
            wrong += _wrong(
                {"min_p": p, "temp": temp},
                functools.partial(_between, sampling.min_p, p * (1 + 64 * EPS), p * (1 - 64 * EPS)),
            )
    return same("rows that keep other tokens", wrong[:3], [])


@law
def min_p_keeps_its_fewest() -> Finding:
    """Min-p never keeps fewer tokens than min_tokens_to_keep."""
    counts = [
        int(count)
        for logprobs, _ in distributions()
        for count in survivors(logprobs, min_p=1.0, min_tokens_to_keep=5).sum(axis=-1)
    ]
    return same("fewest tokens that min-p keeps, of 5", min(counts), 5)


@law
def xtc_drops_the_top_choices() -> Finding:
    """XTC drops, in each row, all tokens above its threshold but the least likely of them, and
    never a special token."""
    wrong = []
    for logprobs, probabilities in distributions():
        for threshold in (0.02, 0.1, 0.4):
            for special in ([], [int(probabilities[0].argmax())]):
                settings: dict[str, Any] = {
                    "xtc_threshold": threshold,
                    "xtc_special_tokens": special,
                }
                kept = survivors(logprobs, xtc_probability=1.0, **settings)
                spared = np.isin(np.arange(SIZE), special)
                wrong += [
                    f"{(~row).sum()} dropped above {threshold}, special {special}"
                    for row, probability in zip(kept, probabilities, strict=True)
                    if (row != (sampling.xtc(probability, threshold) | spared)).any()
                ]
    return same("rows that keep other tokens", wrong[:3], [])


@law
def draws_follow_the_distribution() -> Finding:
    """Draws follow the distribution at the given temperature; at temperature 0 the most likely
    token is drawn."""
    rng = np.random.default_rng(0)
    logits = np.full(SIZE, -20.0)
    logits[rng.permutation(SIZE)[:BOOSTED]] = rng.standard_normal(BOOSTED)
    logprobs = mx.array(np.log(sampling.softmax(logits)).astype(np.float32))
    rows = mx.broadcast_to(logprobs, (4096, SIZE))
    worst = 1.0
    with random_state_kept():
        mx.random.seed(0)
        for temp in (0.5, 2.0):
            drawn = np.array(sample_utils.make_sampler(temp=temp)(rows))
            counts = np.bincount(drawn, minlength=SIZE)
            p = sampling.chi_square(counts, sampling.softmax(logits, temp))
            worst = float(np.minimum(worst, p))  # a NaN stays
        greedy = int(sample_utils.make_sampler(temp=0.0)(logprobs[None])[0].item())
    if greedy != int(logits.argmax()):
        return same("token at temperature 0", greedy, int(logits.argmax()))
    return same("draws as likely as one in ten thousand", worst >= 1e-4, True)


def processed(logits: np.ndarray, history: list[int], **settings: Any) -> np.ndarray:
    """(vocabulary,) logits behind mlx-lm's processors. They write into what they are given."""
    held = mx.array(logits[None])
    for processor in sample_utils.make_logits_processors(**settings):
        held = processor(mx.array(history), held)
    return np.array(held[0])


@law
def penalties_push_what_was_seen() -> Finding:
    """Each penalty and bias changes its own tokens' logits by its definition, and no other."""
    logits = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    logits[[7, 211]], logits[[42, 300]] = -1.5, 1.5  # a penalty has to mind the sign
    seen = np.bincount(HISTORY, minlength=SIZE)
    recent = np.bincount(HISTORY[-3:], minlength=SIZE)
    bias = np.zeros(SIZE, np.float32)
    bias[[5, 42]] = (10.0, -0.25)
    cases: dict[str, tuple[dict[str, Any], np.ndarray]] = {
        "repetition": (
            {"repetition_penalty": 1.5},
            sampling.repetition_penalty(logits, HISTORY, 1.5),
        ),
        "repetition of the last 3": (
            {"repetition_penalty": 1.5, "repetition_context_size": 3},
            sampling.repetition_penalty(logits, HISTORY[-3:], 1.5),
        ),
        "presence": ({"presence_penalty": 0.5}, logits - 0.5 * (seen > 0)),
        "presence in the last 3": (
            {"presence_penalty": 0.5, "presence_context_size": 3},
            logits - 0.5 * (recent > 0),
        ),
        "frequency": ({"frequency_penalty": 0.5}, logits - 0.5 * seen),
        "frequency in the last 3": (
            {"frequency_penalty": 0.5, "frequency_context_size": 3},
            logits - 0.5 * recent,
        ),
        "bias": ({"logit_bias": {5: 10.0, 42: -0.25}}, logits + bias),
        "all": (
            {"logit_bias": {5: 10.0, 42: -0.25}, "presence_penalty": 0.5, "frequency_penalty": 0.2},
            logits + bias - 0.5 * (seen > 0) - 0.2 * seen,
        ),
    }
    bound = 8 * EPS * float(np.abs(logits).max() + 10)
    wrong = [
        name
        for name, (settings, expected) in cases.items()
        if not np.abs(processed(logits, HISTORY, **settings) - expected).max() <= bound
    ]
    return same("settings that change other logits", wrong, [])
