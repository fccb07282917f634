"""Laws of the caches that `caches` does not play with, states, chunks and lists; and of types."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as caching
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
)

from llm_spec.laws.execution import reloaded
from llm_spec.laws.finding import Finding, law, same
from llm_spec.laws.library.play import play_same
from llm_spec.laws.library.reference_cache import numbered

PLAYS, MOVES = 100, 12


@law
def chunked_caches_remember() -> Finding:
    """A chunked cache returns its last chunk and the new tokens, and says where they start."""
    from llm_spec.laws.library.machines.state_caches import ChunkedCache

    return play_same("what a chunked cache holds", ChunkedCache, "its last chunk", PLAYS, MOVES)


@law
def state_caches_keep_rows_apart() -> Finding:
    """Merged, filtered, joined and extracted, a row of states stays as it was."""
    from llm_spec.laws.library.machines.state_caches import StateCache

    return play_same("states of a batch", StateCache, "its rows' own", PLAYS, MOVES)


@law
def state_caches_know_their_padding() -> Finding:
    """When a padded prompt is prefilled in chunks, each chunk's mask excludes the padding."""
    lengths, wrong = [7, 2, 5], []
    cache = ArraysCache(2)
    cache.prepare(lengths=lengths, right_padding=[0, 5, 2])
    read = 0
    for piece in (3, 1, 3):
        wanted = (np.arange(read, read + piece) < np.array(lengths)[:, None]).tolist()
        mask = cache.make_mask(piece)
        if mask is None or mask.tolist() != wanted:
            wrong.append(f"tokens {read} to {read + piece}")
        cache.advance(piece)
        read += piece
    cache.finalize()
    if cache.make_mask(1) is not None and not bool(cache.make_mask(1).all().item()):
        wrong.append("after the prompt")
    return same("chunks with another mask", wrong, [])


@law
def lists_of_caches_do_as_their_parts() -> Finding:
    """Merging, filtering, extracting, trimming and reloading a list reach each of its caches."""
    rng = np.random.default_rng(0)
    rows = [(rng.standard_normal((1, 1, n, 4)), rng.standard_normal((1, 3))) for n in (5, 2, 9)]
    lists = []
    for keys, state in rows:
        entry = CacheList(ArraysCache(1), KVCache())
        entry[1].update_and_fetch(*[mx.array(keys.astype(np.float32))] * 2)
        entry[0][0] = mx.array(state.astype(np.float32))
        lists.append(entry)
    batch = CacheList.merge(lists)
    batch.filter([0, 2])
    wrong = []
    for place, (keys, state) in enumerate((rows[0], rows[2])):
        taken = reloaded([batch.extract(place)])[0]
        held = taken[1].keys_and_values()[0]
        if not np.array_equal(np.array(held), keys.astype(np.float32)):
            wrong.append(f"keys of row {place}")
        if not np.array_equal(np.array(taken[0][0]), state.astype(np.float32)):
            wrong.append(f"state of row {place}")
    pair = CacheList(KVCache(), KVCache())
    for part in (pair[0], pair[1]):
        part.update_and_fetch(*[numbered(range(7))] * 2)
    trimmed = pair.trim(3) if pair.is_trimmable() else 0
    if (trimmed, pair[0].offset, pair[1].offset) != (3, 4, 4):
        wrong.append(f"{trimmed} of 3 trimmed, {pair[0].offset} and {pair[1].offset} left")
    return same("parts of a list that are wrong", wrong, [])


@law
def caches_keep_half_precision() -> Finding:
    """A bfloat16 cache returns bfloat16 after every operation."""
    wrong = []
    for window in (None, 8):

        def fed(tokens: int, window: int | None = window) -> Any:
            cache = RotatingKVCache(window) if window else KVCache()
            if tokens:
                cache.update_and_fetch(*_halves(1, tokens))
            return cache

        def check(cache: Any, rows: int, done: str, window: int | None = window) -> None:
            handed = cache.update_and_fetch(*_halves(rows, 1))
            if any(part.dtype != mx.bfloat16 for part in handed):
                wrong.append(f"{done}, {'rotating' if window else 'plain'}")

        grown = fed(250)
        for _ in range(20):
            check(grown, 1, "grown")
        check(reloaded([grown])[0], 1, "reloaded")
        for lengths in ((3, 5), (0, 5), (12, 1)):
            batch = grown.merge([fed(n) for n in lengths])
            check(batch, 2, "merged")
            batch.extend(grown.merge([fed(2)]))
            check(batch, 3, "joined")
            batch.filter([1, 2])
            check(batch, 2, "filtered")
            check(batch.extract(0), 1, "taken out")
        empty = grown.merge([fed(0)])
        empty.extend(grown.merge([fed(4)]))
        check(empty, 2, "joined to an empty one")
    states = ArraysCache.merge([_half_state(True), _half_state(False)])
    states.extend(ArraysCache.merge([_half_state(True)]))
    if states[0].dtype != mx.bfloat16:
        wrong.append("states merged and joined")
    return same("caches that return another type", sorted(set(wrong)), [])


def _halves(rows: int, tokens: int) -> tuple[mx.array, mx.array]:
    keys = mx.ones((rows, 1, tokens, 4), mx.bfloat16)
    return keys, 2 * keys


def _half_state(filled: bool) -> ArraysCache:
    cache = ArraysCache(1)
    cache[0] = mx.ones((1, 3), mx.bfloat16) if filled else None
    return cache


@law
def a_read_offset_stays() -> Finding:
    """An update does not change the offsets that a batch cache returned before: rotary embeddings
    may still read them."""
    changed = []
    for cache in (BatchKVCache([2, 0]), caching.BatchRotatingKVCache(8, [2, 0])):
        for tokens in (5, 1, 1, 9):
            before = cache.offset
            noted = before.tolist()
            cache.update_and_fetch(*_halves(2, tokens))
            if before.tolist() != noted:
                changed.append(f"{type(cache).__name__} by {tokens} tokens")
    return same("updates that change an offset read before", changed[:3], [])
