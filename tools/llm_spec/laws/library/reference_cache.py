"""A key-value cache next to all that it was ever fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import KVCache, RotatingKVCache

from llm_spec.numerics import distances

HEADS, WIDTH = 2, 32
GROUP, BITS = 32, 8
WINDOW = 8
"""Tokens that a rotating cache keeps."""

Row = tuple[np.ndarray, np.ndarray]
"""Keys and values, (heads, tokens, width) each."""


def noise(rng: np.random.Generator, rows: int, tokens: int) -> tuple[mx.array, mx.array]:
    """Random keys and values, (rows, heads, tokens, width) each."""
    shape = (2, rows, HEADS, tokens, WIDTH)
    keys, values = rng.standard_normal(shape).astype(np.float32)
    return mx.array(keys), mx.array(values)


class Histories:
    """`cache`, and per row of its batch the keys and values that it stands for."""

    def __init__(
        self, cache: Any, rows: int, window: int | None = None, rounded: bool = False
    ) -> None:
        self.cache = cache
        self.window = window
        self.rounded = rounded
        nothing = np.zeros((HEADS, 0, WIDTH), np.float32)
        self.rows: list[Row] = [(nothing, nothing)] * rows

    @property
    def shortest(self) -> int:
        """Tokens in the row that has the fewest."""
        return min(keys.shape[1] for keys, _ in self.rows)

    def feed(self, rng: np.random.Generator, lengths: Sequence[int]) -> float:
        """Feed each row so many random tokens, padded on the right as mlx-lm pads its prompts.

        Returns the largest distance of the attention over what the cache hands out from the
        attention over the histories. NaN counts as infinitely far.
        """
        longest = max(lengths)
        shape = (len(self.rows), HEADS, longest, WIDTH)
        queries, keys, values = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
        padding = [longest - length for length in lengths]
        if max(padding):
            self.cache.prepare(lengths=list(lengths), right_padding=padding)
        mask = self.cache.make_mask(longest, return_array=True, window_size=self.window)
        held = self.cache.update_and_fetch(mx.array(keys), mx.array(values))
        attended = np.array(
            scaled_dot_product_attention(
                mx.array(queries), *held, self.cache, scale=WIDTH**-0.5, mask=mask
            )
        )
        if max(padding):
            self.cache.finalize()
        worst = 0.0
        for i, length in enumerate(lengths):
            row = (keys[i, :, :length], values[i, :, :length])
            self.rows[i] = _joined(self.rows[i], _rounded(row) if self.rounded else row)
            wanted = self._attention(self.rows[i], queries[i, :, :length])
            missed = np.abs(attended[i, :, :length] - wanted).max(initial=0)
            worst = distances.worst((worst, float(missed)))
        return worst

    def trim(self, tokens: int) -> None:
        """Take the last tokens of every row back."""
        if (done := self.cache.trim(tokens)) != tokens:
            raise ValueError(f"trimmed {done} tokens instead of {tokens}")
        self.rows = [(keys[:, :-tokens], values[:, :-tokens]) for keys, values in self.rows]

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        self.cache.filter(rows)
        self.rows = [self.rows[row] for row in rows]

    def alone(self, row: int) -> Histories:
        """One row with a cache of its own."""
        single = Histories(self.cache.extract(row), rows=0, window=self.window)
        single.rows = [self.rows[row]]
        return single

    def round_rows(self) -> None:
        """The cache has been quantised: so are the histories, from now on."""
        self.rounded = True
        self.rows = [_rounded(row) for row in self.rows]

    def take_rows(self, rows: list[Row]) -> None:
        """Replace the histories."""
        self.rows = list(rows)

    def _attention(self, row: Row, queries: np.ndarray) -> np.ndarray:
        keys, values = (part.astype(np.float64) for part in row)
        count, total = queries.shape[1], keys.shape[1]
        query, key = np.arange(total - count, total)[:, None], np.arange(total)
        seen = key <= query
        if self.window:
            seen &= key > query - self.window
        scores = (queries.astype(np.float64) * WIDTH**-0.5) @ keys.swapaxes(1, 2)
        scores -= scores.max(initial=0)
        weights = np.exp(scores, out=scores)  # in place, for these arrays take most of the time
        weights *= seen
        return weights @ values / weights.sum(axis=-1, keepdims=True)


def _joined(row: Row, more: Row) -> Row:
    keys, values = (np.concatenate(pair, axis=1) for pair in zip(row, more, strict=True))
    return keys, values


def _rounded(row: Row) -> Row:
    keys, values = (
        np.array(mx.dequantize(*mx.quantize(mx.array(part), GROUP, BITS), GROUP, BITS))
        if part.size
        else part
        for part in row
    )
    return keys, values


def single(window: int | None) -> Histories:
    """One empty cache: rotating if there is a window."""
    return Histories(RotatingKVCache(window) if window else KVCache(), rows=1, window=window)


def rebuilt(cache: Any) -> Any:
    """Another cache from the state of this one: before mlx-lm 0.32 a part of it stood apart."""
    apart = [cache.meta_state] if hasattr(cache, "meta_state") else []
    return type(cache).from_state(cache.state, *apart)


def merged(parts: list[Histories]) -> Histories:
    """A batch of single caches with histories of unequal lengths."""
    cache = parts[0].cache.merge([part.cache for part in parts])
    whole = Histories(cache, rows=0, window=parts[0].window)
    whole.take_rows([row for part in parts for row in part.rows])
    return whole


def numbered(numbers: Sequence[int]) -> mx.array:
    """One row and one head of keys that hold these numbers, (1, 1, tokens, 1)."""
    return mx.array(list(numbers), mx.float32).reshape(1, 1, -1, 1)
