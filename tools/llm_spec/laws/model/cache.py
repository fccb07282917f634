"""Laws of the key-value cache: however a prompt was fed, the logits are those of one pass."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as caching
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from llm_spec.laws.case import Case
from llm_spec.laws.execution import feed_in_chunks, fill, logits_of, reloaded
from llm_spec.laws.finding import (
    Finding,
    law,
    law_of_code,
    not_applicable,
    same,
    within,
    within_rounding,
)
from llm_spec.numerics import distances

CACHE_STEP = 256  # caches grow by as many tokens; scans go in chunks of as many
BEFORE, LONG = CACHE_STEP - 3, CACHE_STEP + 10  # tokens read before the step, and past it
GROUP, BITS = 32, 8
SHORT = 6  # within every window: a ring that has wrapped cannot be trimmed


def ways_to_cut(length: int) -> dict[str, list[int]]:
    """Piece lengths that add up to `length`: at once, in uneven chunks, tokens about a chunk."""
    uneven = [7, 9, 16, 1, 2]
    tokens, chunk, last = length // 4, length // 2, 5
    return {
        "at once": [length],
        "in chunks": [*uneven, length - sum(uneven)],
        "token by token, with a chunk between": [
            *[1] * tokens,
            chunk,
            *[1] * (length - tokens - chunk - last),
            last,
        ],
    }


@law
def cached_is_uncached(case: Case) -> Finding:
    """Logits with a cache equal logits without one, however the prompt is chunked."""
    missed = distances_by_cut(case)
    worst = max(missed, key=missed.__getitem__)
    return within_rounding(
        f"distance of cached logits from uncached ones, fed {worst}", missed[worst], case
    )


def distances_by_cut(case: Case) -> dict[str, float]:
    """Distance of cached from uncached logits, relative to the norm, for each way to chunk."""
    return {
        way: distances.distance(feed_in_chunks(case.model, case.token_ids, lengths)[0], case.logits)
        for way, lengths in ways_to_cut(len(case.token_ids)).items()
    }


@law_of_code
def a_long_prompt_is_cached(case: Case) -> Finding:
    """Growing past its allocation step, by tokens and by a chunk, a cache changes no logit."""
    ids, rest = long_text(case), LONG - BEFORE
    cache = fill(case.model, ids, [BEFORE])
    logits, _ = feed_in_chunks(case.model, ids[BEFORE:], [*[1] * 6, rest - 6], cache)
    missed = distances.distance(logits, case.once(long_logits)[1:])
    what = "distance of cached logits from uncached ones"
    return within_rounding(what, missed, case.once(long_case))


def long_text(case: Case) -> list[int]:
    """`LONG` tokens: those of the case again and again."""
    return (case.token_ids * (LONG // len(case.token_ids) + 1))[:LONG]


def long_case(case: Case) -> Case:
    """The same model on the long text. Ask `case.once`."""
    return case.on(long_text(case))


def long_logits(case: Case) -> np.ndarray:
    """(tokens, vocabulary): what one pass over the long text gives from token `BEFORE` - 1 on."""
    return logits_of(case.model, long_text(case), since=BEFORE - 1)


def filled(case: Case, tokens: int) -> list[Any]:
    """A prompt cache that holds the first tokens of the case, fed at once. Ask `case.once` for one,
    and copy it."""
    return fill(case.model, case.token_ids, [tokens])


@law_of_code
def trimmed_is_never_fed(case: Case) -> Finding:
    """A cache whose last tokens were trimmed gives the logits of one that never held them."""
    ids = case.token_ids
    for length in (len(ids), SHORT):
        kept = length // 2
        other = [ids[0]] * (length - kept)
        cache = copy.deepcopy(case.once(filled, kept))
        if not caching.can_trim_prompt_cache(cache):
            continue  # and no more once it is fed
        fill(case.model, other, [len(other)], cache)
        if caching.can_trim_prompt_cache(cache):
            break
    else:
        return not_applicable("its cache cannot be trimmed")
    trimmed = caching.trim_prompt_cache(cache, len(other))
    if trimmed != len(other):
        return same("tokens that trimming reports", trimmed, len(other))
    logits = logits_of(case.model, ids[kept:], cache)
    missed = distances.distance(logits, case.logits[kept:])
    return within_rounding("distance of logits after trimming from uncached ones", missed, case)


@law
def saved_cache_continues(case: Case) -> Finding:
    """A saved and reloaded prompt cache continues the prompt with the same logits."""
    ids, half = case.token_ids, len(case.token_ids) // 2
    cache = fill(case.model, ids[half:], [1], copy.deepcopy(case.once(filled, half)))
    logits = logits_of(case.model, ids[half + 1 :], reloaded(cache))
    missed = distances.distance(logits, case.logits[half + 1 :])
    return within_rounding("distance of logits after reloading from uncached ones", missed, case)


@law_of_code
def copied_cache_stands_alone(case: Case) -> Finding:
    """Feeding tokens to a cache does not change a copy made before, whichever is fed first."""
    ids, half = case.token_ids, len(case.token_ids) // 2
    cache = fill(case.model, ids, [half])
    kept = copy.deepcopy(cache)
    logits = [logits_of(case.model, ids[half : half + 4], kept)]
    fill(case.model, ids, [half], cache)
    logits.append(logits_of(case.model, ids[half + 4 :], kept))
    missed = distances.distance(np.concatenate(logits), case.logits[half:])
    return within_rounding("distance of logits from a copy from uncached ones", missed, case)


@law_of_code
def an_unfilled_bound_changes_nothing(case: Case) -> Finding:
    """A bounded cache that is not full gives the same logits as an unbounded one."""
    bounded = caching.make_prompt_cache(case.model, max_kv_size=2 * len(case.token_ids))
    if hasattr(case.model, "make_cache"):
        return not_applicable("it makes its own caches, which take no bound")
    half = len(case.token_ids) // 2
    rest = len(case.token_ids) - half - 3
    logits, _ = feed_in_chunks(case.model, case.token_ids, [half, 1, 1, 1, rest], bounded)
    missed = distances.distance(logits, case.logits)
    return within_rounding("distance of logits with a bounded cache", missed, case)


@law_of_code
def quantised_cache_rounds_and_no_more(case: Case) -> Finding:
    """A quantised cache holds keys and values within a step of its grid, and what it holds gives
    the logits.

    The model runs a second time on what the first run left in the quantised caches, in floating
    point: rounding the second run's own would put some values on the next point of the grid.
    """
    ids, half = case.token_ids, len(case.token_ids) // 2
    cache, unpacked = (copy.deepcopy(case.once(filled, half)) for _ in range(2))
    packed = [i for i, entry in enumerate(cache) if quantisable(entry)]
    if not packed:
        return not_applicable("none of its caches can be quantised")
    for i in packed:
        cache[i] = cache[i].to_quantized(group_size=GROUP, bits=BITS)
    logits = logits_of(case.model, ids[half:], cache)
    kept = sorted({(cache[i].offset, cache[i].group_size, cache[i].bits) for i in packed})
    if kept != [(len(ids), GROUP, BITS)]:
        return same("tokens, group size and bits of the caches", kept, [(len(ids), GROUP, BITS)])
    for i in packed:
        unpacked[i] = Unpacked(cache[i], held=half)
    expected = logits_of(case.model, ids[half:], unpacked)
    steps = distances.worst(unpacked[i].worst for i in packed)
    # Scales, and the points of the grid that they make, are rounded to the type of the keys; and
    # the second run's keys differ from the first's by what that rounding does to the layers before.
    noise = 0.0 if case.dtype == mx.float32 else case.noise
    allowed = 1.01 + 2**BITS * (2 * float(mx.finfo(case.dtype).eps) + noise)
    if not steps <= allowed:
        return within("steps of the grid between a key or value and what is held", steps, allowed)
    missed = distances.distance(logits, expected)
    return within_rounding("distance of logits from those of what is held", missed, case)


class Unpacked(KVCache):
    """What a quantised cache holds, in floating point; what it is fed is only compared."""

    def __init__(self, cache: QuantizedKVCache, held: int) -> None:
        super().__init__()
        self.packed = [_unpacked(part, cache.offset) for part in (cache.keys, cache.values)]
        self.keys, self.values = (values for values, _ in self.packed)
        self.offset = held
        self.worst = 0.0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Hand out what the quantised cache holds for these tokens and those before."""
        new = slice(self.offset, self.offset + keys.shape[2])
        self.offset = new.stop
        for fed, (held, step) in zip((keys, values), self.packed, strict=True):
            missed = fed.astype(mx.float32) - held[:, :, new].astype(mx.float32)
            steps = mx.abs(missed) / step[:, :, new].astype(mx.float32)
            self.worst = distances.worst((self.worst, float(steps.max())))
        return self.keys_and_values()


def _unpacked(parts: tuple[mx.array, mx.array, mx.array], tokens: int) -> tuple[mx.array, mx.array]:
    words, scales, biases = (part[:, :, :tokens] for part in parts)
    step = mx.repeat(mx.abs(scales), GROUP, axis=-1)
    return mx.dequantize(words, scales, biases, GROUP, BITS), mx.maximum(step, 1e-12)


def quantisable(entry: Any) -> bool:
    """Whether a filled cache knows a quantised form, and its keys and values fill whole groups."""
    return (
        type(entry) is KVCache
        and entry.keys is not None
        and not any(array.shape[-1] % GROUP for array in (entry.keys, entry.values))
    )
