"""Laws of mlx-lm's cache objects themselves, without a model.

A cache's definition is the whole history: whatever it is told to do, attention over the keys,
values and mask that it hands out is attention over every token it was fed (the last `window` of
them for a rotating cache), each row by itself. Seeded random plays run every operation after every
other, past the step by which caches grow and past the point where a ring wraps.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as caching
from mlx_lm.models.cache import (
    BatchKVCache,
    BatchRotatingKVCache,
    KVCache,
    LRUPromptCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from llm_spec.laws.finding import Finding, law, same, within
from llm_spec.laws.library.reference_cache import BITS, GROUP, Histories, noise

WINDOW = 8
BOUND = 1e-5  # one attention in float32 against the same in float64
PLAYS, MOVES = 40, 12


def single(window: int | None) -> Histories:
    """One empty cache: rotating if there is a window."""
    return Histories(RotatingKVCache(window) if window else KVCache(), rows=1, window=window)


def merged(parts: list[Histories]) -> Histories:
    """A batch of single caches with histories of unequal lengths."""
    cache = parts[0].cache.merge([part.cache for part in parts])
    whole = Histories(cache, rows=0, window=parts[0].window)
    whole.take_rows([row for part in parts for row in part.rows])
    return whole


@law
def single_caches_remember() -> Finding:
    """Fed in pieces, trimmed, copied and reloaded, a cache gives attention to its history."""
    worst = 0.0
    for seed in range(PLAYS):
        rng = np.random.default_rng(seed)
        if worst > BOUND:
            break
        play = single(window=WINDOW if seed % 2 else None)
        for _ in range(MOVES):
            move = rng.choice(["token", "token", "chunk", "trim", "copy", "reload"])
            if move == "token":
                worst = max(worst, play.feed(rng, [1]))
            elif move == "chunk":
                worst = max(worst, play.feed(rng, [int(rng.choice([2, 7, 20, 255]))]))
            elif move == "trim" and play.shortest > 1 and play.cache.is_trimmable():
                play.trim(int(rng.integers(1, play.shortest)))
            elif move == "copy":
                left, play.cache = play.cache, copy.deepcopy(play.cache)
                worst = max(worst, play.feed(rng, [3]))
                left.update_and_fetch(*noise(rng, rows=1, tokens=5))
            elif move == "reload" and play.shortest:
                play.cache = _reloaded(play.cache)
    return within("distance of attention over a cache from that over its history", worst, BOUND)


@law
def batch_caches_keep_rows_apart() -> Finding:
    """Merged, fed unequally, filtered, joined and taken out, a row stays what it was fed."""
    worst = 0.0
    for seed in range(PLAYS):
        rng = np.random.default_rng(seed)
        if worst > BOUND:
            break
        play = _some_rows(rng, WINDOW if seed % 2 else None)
        decoded = False
        for _ in range(MOVES):
            rows = len(play.rows)
            moves = ["token", "filter", "extend", "extract", *([] if decoded else ["ragged"])]
            moves += [] if play.window else ["reload"]  # of rings see batch_caches_reload
            move = rng.choice(moves)
            if move == "token":
                # See chunks_follow_tokens: after single tokens a ring takes no chunk in a batch.
                decoded = play.window is not None
                worst = max(worst, play.feed(rng, [1] * rows))
            elif move == "ragged":
                lengths = rng.integers(1, int(rng.choice([4, 13])), rows).tolist()
                worst = max(worst, play.feed(rng, lengths))
            elif move == "filter" and rows > 1:
                play.keep(sorted(rng.permutation(rows)[: rng.integers(1, rows)].tolist()))
            elif move == "extend" and rows < 4:
                other = _some_rows(rng, play.window)
                play.cache.extend(other.cache)
                play.take_rows(play.rows + other.rows)
            elif move == "extract" and play.shortest:
                play = merged([play.alone(row) for row in range(rows)])
            elif move == "reload" and play.shortest:
                play.cache = type(play.cache).from_state(play.cache.state)
    return within("distance of attention in a batch from that of each row alone", worst, BOUND)


@law
def chunks_follow_tokens() -> Finding:
    """A batch of rings that wrapped while decoding takes a further prompt of several tokens."""
    rng = np.random.default_rng(0)
    full, empty = single(WINDOW), single(WINDOW)
    full.feed(rng, [20])
    play = merged([full, empty])
    worst = max(play.feed(rng, [1, 1]), play.feed(rng, [2, 2]))
    return within("distance of attention in a batch from that of each row alone", worst, BOUND)


@law
def batch_caches_reload() -> Finding:
    """A batch cache made from another's state goes on as the other."""
    worst = 0.0
    for window in (None, WINDOW):
        rng = np.random.default_rng(0)
        full, short = single(window), single(window)
        full.feed(rng, [20])
        short.feed(rng, [3])
        play = merged([full, short])
        play.cache = type(play.cache).from_state(play.cache.state)
        worst = max(worst, play.feed(rng, [1, 1]))
    return within("distance of attention after a reload", worst, BOUND)


@law
def rows_without_a_token_come_out() -> Finding:
    """An empty row of an empty batch can be taken out, as an empty cache."""
    taken = [
        batch.extract(0) for batch in (BatchKVCache([0, 0]), BatchRotatingKVCache(WINDOW, [0, 0]))
    ]
    return within("tokens in the row", max(cache.size() for cache in taken), 0)


@law
def quantised_caches_round() -> Finding:
    """A quantised cache holds each key and value rounded to its grid, grown past its step."""
    rng = np.random.default_rng(0)
    play = Histories(QuantizedKVCache(GROUP, BITS), rows=1, rounded=True)
    worst = max(play.feed(rng, [length]) for length in (5, 1, 300, 1, 1, 40))
    play.trim(50)
    worst = max(worst, play.feed(rng, [3]))
    later = single(None)
    later.feed(rng, [7])
    later.cache = later.cache.to_quantized(group_size=GROUP, bits=BITS)
    later.round_rows()
    worst = max(worst, later.feed(rng, [1]))
    return within("distance of attention over a quantised cache from its definition", worst, BOUND)


@law
def prompts_are_reused() -> Finding:
    """A prompt cache that is looked up holds a prompt's first tokens, and comes with the rest.

    What is done to a cache that was handed out does not reach the stored one.
    """
    wrong = 0
    for seed in range(PLAYS):
        rng = np.random.default_rng(seed)
        store = LRUPromptCache(max_size=4)
        for _ in range(MOVES):
            tokens = rng.integers(1, 3, rng.integers(1, 9)).tolist()
            if rng.random() < 0.5:
                store.insert_cache("model", list(tokens), [_holding(tokens)])
                continue
            found, rest = store.fetch_nearest_cache("model", list(tokens))
            held = _held(found[0]) if found else []
            wrong += held + list(rest) != tokens
            if found:
                found[0].update_and_fetch(*[mx.zeros((1, 1, 1, 1))] * 2)
    if wrong:
        return within("prompts that the cache and the rest do not add up to", wrong, 0)
    store = LRUPromptCache(max_size=4)
    for length in (1, 2, 3):
        store.insert_cache("model", list(range(length)), [_holding(list(range(length)))])
    kept = (len(store), store.nbytes)
    return same("prompts and bytes after one grew", kept, (1, _holding([0, 1, 2]).nbytes))


def _holding(tokens: list[int]) -> KVCache:
    cache = KVCache()
    cache.update_and_fetch(*[mx.array(tokens, mx.float32).reshape(1, 1, -1, 1)] * 2)
    return cache


def _held(cache: KVCache) -> list[int]:
    keys, _ = cache.keys_and_values()
    return [int(key) for key in keys.reshape(-1).tolist()]


def _some_rows(rng: np.random.Generator, window: int | None) -> Histories:
    parts = [single(window) for _ in range(rng.integers(1, 3))]
    for part in parts:
        for _ in range(rng.integers(0, 3)):
            part.feed(rng, [int(rng.choice([1, 5, 9, 20, 260]))])
    return merged(parts)


def _reloaded(cache: Any) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "cache.safetensors")
        caching.save_prompt_cache(file, [cache])
        (loaded,) = caching.load_prompt_cache(file)
        mx.eval(loaded.keys, loaded.values)
        return loaded
