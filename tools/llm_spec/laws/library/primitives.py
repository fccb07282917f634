"""Laws of mlx-lm's smaller parts: buffers, stop sequences, packed attention, rotations, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import base
from mlx_lm.models import cache as caching
from mlx_lm.models.rope_utils import initialize_rope

from llm_spec.laws.execution import generating
from llm_spec.laws.finding import Finding, law, same, within
from llm_spec.numerics import distances

PLAYS = 40
GROUP, BITS, WIDTH = 32, 8, 32
BOUND = 1e-5  # attention in float32 against float64; measured: 6e-7 where nothing is broken
ROPES: dict[str, dict[str, Any] | None] = {
    "default": None,
    "linear": {"type": "linear", "factor": 4.0},
    "dynamic": {"type": "dynamic", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64},
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "longrope": {
        "type": "longrope",
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * (WIDTH // 2),
        "long_factor": [2.0] * (WIDTH // 2),
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
}


@law
def token_buffers_remember() -> Finding:
    """A token buffer returns every token that it was created with and fed, past its step."""
    rng = np.random.default_rng(0)
    told = rng.integers(0, 1000, 250).tolist()
    buffer = caching.TokenBuffer(told)
    wrong = 0
    for count in (1, 1, 4, 1, 300, 1):
        new = rng.integers(0, 1000, count)
        told = told + new.tolist()
        wrong += buffer.update_and_fetch(mx.array(new)).tolist() != told
    return same("updates that return another text", wrong, 0)


@law
def stop_sequences_are_found() -> Finding:
    """A stop sequence is found at its last token, however stop sequences overlap, and nowhere
    else."""
    wrong = []
    for seed in range(PLAYS):
        rng = np.random.default_rng(seed)
        stops = [rng.integers(0, 3, rng.integers(1, 5)).tolist() for _ in range(3)]
        text = rng.integers(0, 3, 30).tolist()
        matcher = generating.StopSequences(stops).matcher()
        found = [matcher.advance(token) for token in text]
        ends = [any(text[: i + 1][-len(s) :] == s for s in stops) for i in range(len(text))]
        if found != ends:
            wrong.append(f"{stops} in {text}")
    return same("texts with another end", wrong[:2], [])


@law
def packed_attention_is_attention() -> Finding:
    """Attention over quantised keys and values equals that over the dequantised ones: under every
    kind of mask, with several rows, and with heads that share their keys."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for heads, length, total in ((2, 1, 9), (4, 5, 9), (4, 1, 300)):
        queries = mx.array(rng.standard_normal((3, heads, length, WIDTH)), mx.float32)
        packed = [
            mx.quantize(mx.array(part, mx.float32), GROUP, BITS)
            for part in rng.standard_normal((2, 3, 2, total, WIDTH))
        ]
        held = [np.array(mx.dequantize(*part, GROUP, BITS)) for part in packed]
        for mask in _masks(length, total):
            cache = caching.QuantizedKVCache(GROUP, BITS)
            got = base.scaled_dot_product_attention(
                queries[:], packed[0], packed[1], cache, scale=WIDTH**-0.5, mask=mask
            )
            wanted = _attention(np.array(queries), held[0], held[1], mask)
            worst = distances.worst((worst, distances.distance(np.array(got), wanted)))
    return within("distance from attention over the dequantised", worst, BOUND)


def _masks(length: int, total: int) -> list[Any]:
    """No mask, causal ones in all spellings, and one per row, as batches have it."""
    causal = mx.arange(total - length, total)[:, None] >= mx.arange(total)[None]
    padding = mx.array([0, 2, 3])[:, None, None, None] <= mx.arange(total)
    added = mx.where(causal, 0.0, -1e9)
    return [None, "causal", causal, added, padding & causal]


def _attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: Any) -> np.ndarray:
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(part, repeats, axis=1).astype(np.float64) for part in (keys, values))
    scores = queries @ keys.swapaxes(-1, -2) * WIDTH**-0.5
    length, total = scores.shape[-2:]
    if isinstance(mask, str):
        mask = _masks(length, total)[2]
    if mask is not None:
        shown = np.array(mask)
        scores = np.where(shown, scores, -np.inf) if shown.dtype == bool else scores + shown
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ values


@law
def rotations_know_their_place() -> Finding:
    """Every kind of rotary embedding rotates a token by its position alone: in one piece or in
    several, in rows that started at different times; and leaves its input as it was. The dynamic
    kind rotates more slowly once a text is longer than the model's context."""
    rng = np.random.default_rng(0)
    x = mx.array(rng.standard_normal((2, 3, 48, WIDTH)), mx.float32)
    before = np.array(x)
    wrong = []
    for name, settings in ROPES.items():
        rope = initialize_rope(WIDTH, 10000.0, False, settings, 256)
        whole = np.array(rope(x))
        pieces = np.concatenate(
            [np.array(rope(x[:, :, a:b], offset=a)) for a, b in ((0, 7), (7, 8), (8, 48))], axis=2
        )
        if name != "dynamic":  # its base depends on the length: it takes no offsets by row
            late = mx.stack([x[0, :, 5:17], x[1, :, 20:32]])
            rows = np.array(rope(late, offset=mx.array([5, 20])))
            wanted = np.stack([whole[0, :, 5:17], whole[1, :, 20:32]])
            wrong += [f"{name}, by row"] * (not np.allclose(rows, wanted, atol=1e-4))
        wrong += [f"{name}, in pieces"] * (not np.allclose(pieces, whole, atol=1e-4))
        wrong += [f"{name}, not turned"] * bool(np.allclose(whole, np.array(x), atol=1e-2))
        wrong += [f"{name}, its input"] * (not np.array_equal(np.array(x), before))
        x = mx.array(before)
    within_length, past_it = (
        np.array(initialize_rope(WIDTH, 10000.0, False, ROPES["dynamic"], length)(x))
        for length in (48, 32)
    )
    wrong += ["dynamic, past its length"] * bool(np.allclose(within_length, past_it, atol=1e-2))
    return same("wrong rotations", wrong, [])


@law
def every_rank_has_its_layers() -> Finding:
    """Split over ranks, each layer runs on exactly one rank, the first on the last."""
    wrong = []
    for layers in (2, 5, 61):
        for size in (1, 2, 3):
            if size > layers:
                continue
            run: list[int] = []
            for rank in reversed(range(size)):
                run += _share(layers, rank, size)
            if run != list(range(layers)):
                wrong.append(f"{len(run)} of {layers} layers on {size} ranks")
    return same("shares that do not add up", wrong, [])


class Group:
    """A rank among several, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = lambda: rank, lambda: size


class Numbered(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _share(layers: int, rank: int, size: int) -> list[int]:
    from mlx_lm.models.pipeline import PipelineMixin  # here: releases before 0.28.1 have none

    class Stack(PipelineMixin, nn.Module):
        """Layers that know their number."""

        def __init__(self) -> None:
            super().__init__()
            self.layers: Sequence[Any] = [Numbered(i) for i in range(layers)]

    stack = Stack()
    stack.pipeline(Group(rank, size))
    return [layer.number for layer in stack.pipeline_layers]
