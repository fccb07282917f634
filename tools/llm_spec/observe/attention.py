"""Attention maps computed a second time, and the proof that they are the model's own.

A fused kernel keeps its weights to itself, so they are computed again from what it was given.
The proof is that the weights, applied to the layer's values, give the layer's attention output.

MLX multiplies and NumPy does the rest: its exponential is thirty times as fast as that of MLX's CPU
backend, and a second BLAS beside MLX's would fight with it for the cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

SCORED_AT_ONCE = 256  # queries
LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True)
class AttentionCall:
    """One use of attention, as recorded; `None` where the call has no such part.

    A fused call holds `queries` (batch, heads, queries, head_dim), `keys` (batch, kv_heads, keys,
    head_dim), `scale`, `mask` and `sinks`. Attention that a model writes out itself holds `weights`
    (batch, heads, queries, keys) instead, as its own softmax gave them. All are widened to float32,
    but for boolean masks; `dtype` is what the model computes in.
    """

    layer: int | None
    module: str
    dtype: mx.Dtype
    values: mx.array  # (batch, kv_heads, keys, value_dim)
    output: mx.array  # (batch, heads, queries, value_dim)
    queries: mx.array | None = None
    keys: mx.array | None = None
    scale: float = 1.0
    mask: mx.array | str | None = None
    sinks: mx.array | None = None
    weights: mx.array | None = None

    def inputs(self) -> list[mx.array]:
        """What attention was given; with `output`, all that must be evaluated to look at it."""
        parts = (self.queries, self.keys, self.values, self.mask, self.sinks, self.weights)
        return [part for part in parts if isinstance(part, mx.array)]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, queries, keys)"""
        batch, heads, queries, _ = self.output.shape
        return batch, heads, queries, self.values.shape[2]


Weights = tuple[np.ndarray, np.ndarray | None]


def recompute_weights(
    call: AttentionCall, rows: slice = slice(None), out: np.ndarray | None = None
) -> Weights:
    """The weights of a call, and those of its sinks: of all queries, or of some `rows`.

    Returns what `attention_weights` returns, in `out` where that is given.
    """
    if call.weights is not None:
        weights = np.asarray(call.weights)[:, :, rows]
        return (weights if out is None else np.positive(weights, out=out)), None
    assert call.queries is not None
    assert call.keys is not None
    mask: np.ndarray | None = None
    if isinstance(call.mask, str):
        mask = causal_mask(*call.shape[2:])[rows]
    elif call.mask is not None:
        mask = np.asarray(call.mask)
        mask = mask[..., rows, :] if mask.ndim > 1 and mask.shape[-2] > 1 else mask
    sinks = None if call.sinks is None else np.asarray(call.sinks)
    rest = {} if out is None else {"out": out}
    return attention_weights(call.queries[:, :, rows], call.keys, mask, call.scale, sinks, **rest)


def attention_weights(
    queries: mx.array,
    keys: mx.array,
    mask: np.ndarray | None = None,
    scale: float = 1.0,
    sinks: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> Weights:
    """How much each query attends to each key: softmax(scale * queries @ keys.T + mask).

    Args:
        queries: (batch, heads, queries, head_dim) float32, as they attend: normalised and rotated.
        keys: (batch, kv_heads, keys, head_dim) float32; kv_heads divides heads.
        mask: broadcasts to (batch, heads, queries, keys): booleans keep where true, numbers are
            added; None lets every query see every key.
        scale: factor on the scores.
        sinks: (heads,) score of a key that has no value and only takes weight away.
        out: where to put the weights.

    Returns:
        Weights (batch, heads, queries, keys), and what went to the sinks (batch, heads, queries),
        None without sinks. A query's weights and its sink sum to one.
    """
    batch, heads, length, head_dim = queries.shape
    kv_heads, size = keys.shape[1:3]
    grouped = (queries * scale).reshape(batch, kv_heads, -1, head_dim)
    scores = grouped @ keys.swapaxes(-1, -2)
    weights = np.asarray(scores).reshape(batch, heads, length, size)
    out = np.empty(weights.shape, np.float32) if out is None else out

    # A score below float32's range becomes -inf, and a row of -inf NaN, as in MLX.
    with np.errstate(over="ignore", invalid="ignore"):
        if mask is not None:
            # A finite floor, as in MLX: a row with nothing to see spreads its weight evenly.
            floor = np.where(mask, np.float32(0), LOWEST) if mask.dtype == bool else mask
            weights = np.add(weights, floor, out=out)
        top = weights.max(axis=-1, keepdims=True)
        if sinks is not None:
            top = np.maximum(top, sinks[:, None, None])
        weights = np.subtract(weights, top, out=out)
        np.exp(weights, out=weights)
        total = weights.sum(axis=-1, keepdims=True)
        if sinks is None:
            weights /= total
            return weights, None
        sink = np.exp(sinks[:, None, None] - top)
        total += sink
        weights /= total
        return weights, (sink / total)[..., 0]


def largest_score(call: AttentionCall) -> float:
    """The largest size of a score, masked or not; 0 where the call holds weights and no queries."""
    if call.queries is None or call.keys is None:
        return 0.0
    batch, _, length, head_dim = call.queries.shape
    keys = call.keys.swapaxes(-1, -2)
    largest = [0.0]
    for start in range(0, length, SCORED_AT_ONCE):
        rows = call.queries[:, :, start : start + SCORED_AT_ONCE] * call.scale
        scores = rows.reshape(batch, call.keys.shape[1], -1, head_dim) @ keys
        largest.append(float(mx.abs(scores).max()))
    return max(largest)


def causal_mask(queries: int, keys: int) -> np.ndarray:
    """What MLX means by "causal", (queries, keys): the last query sees every key."""
    return np.tri(queries, keys, keys - queries, dtype=bool)


def reconstruction_error(weights: np.ndarray, values: mx.array, output: mx.array) -> float:
    """How far weights @ values is from the layer's own attention output, at worst.

    The distance of each head's output at each query is taken relative to that output's norm, or
    to a hundredth of the largest norm where the values cancel out to less.

    Args:
        weights: (batch, heads, queries, keys)
        values: (batch, kv_heads, keys, value_dim)
        output: (batch, heads, queries, value_dim)
    """
    batch, _, _, size = weights.shape
    grouped = mx.array(weights.reshape(batch, values.shape[1], -1, size))
    missed = mx.linalg.norm((grouped @ values).reshape(output.shape) - output, axis=-1)
    norms = mx.linalg.norm(output, axis=-1)
    floor = mx.maximum(norms.max() / 100, float(np.finfo(np.float32).tiny))
    return float(np.asarray((missed / mx.maximum(norms, floor)).max()))


def widened(array: mx.array) -> mx.array:
    """Another handle on `array`, in float32 unless it is boolean: later changes do not reach it."""
    return array[...] if array.dtype == mx.bool_ else array.astype(mx.float32)
