"""Laws of mlx-lm's cache objects themselves, without a model.

A cache's definition is the whole history: whatever it is told to do, attention over the keys,
values and mask that it hands out is attention over every token it was fed (the last `window` of
them for a rotating cache), each row by itself. Plays that hypothesis draws run every operation
after every other, past the step by which caches grow and past the point where a ring wraps; of one
that fails, the finding tells the fewest moves.
"""

from __future__ import annotations

import numpy as np
from mlx_lm.models import cache as caching

from llm_spec.laws.finding import Finding, law, within
from llm_spec.laws.library.play import Distances, play_within
from llm_spec.laws.library.reference_cache import (
    BITS,
    GROUP,
    WINDOW,
    Histories,
    merged,
    rebuilt,
    single,
)

BOUND = 1e-5
"""One attention in float32 against the same in float64: where nothing is broken, the plays show at
most 9e-7 on a CPU."""
PLAYS, MOVES = 200, 12


@law
def single_caches_remember() -> Finding:
    """Fed in chunks, trimmed, copied and reloaded, a cache gives attention over its history."""
    from llm_spec.laws.library.machines.kv_caches import SingleCache

    SingleCache.seen = Distances(BOUND)
    what = "distance of attention over a cache from that over its history"
    return play_within(what, SingleCache, SingleCache.seen, PLAYS, MOVES)


@law
def batch_caches_keep_rows_apart() -> Finding:
    """Merged, fed unequally, filtered, joined and extracted, a row keeps what it was fed."""
    from llm_spec.laws.library.machines.kv_caches import BatchCache

    BatchCache.seen = Distances(BOUND)
    what = "distance of attention in a batch from that of each row alone"
    return play_within(what, BatchCache, BatchCache.seen, PLAYS, MOVES)


@law
def chunks_follow_tokens() -> Finding:
    """A batch of rotating caches that wrapped in decode takes a prompt of several tokens."""
    rng = np.random.default_rng(0)
    full, empty = single(WINDOW), single(WINDOW)
    full.feed(rng, [20])
    play = merged([full, empty])
    worst = max(play.feed(rng, [1, 1]), play.feed(rng, [2, 2]))
    return within("distance of attention in a batch from that of each row alone", worst, BOUND)


@law
def batch_caches_reload() -> Finding:
    """A batch cache rebuilt from another's state continues like the other."""
    worst = 0.0
    for window in (None, WINDOW):
        rng = np.random.default_rng(0)
        full, short = single(window), single(window)
        full.feed(rng, [20])
        short.feed(rng, [3])
        play = merged([full, short])
        play.cache = rebuilt(play.cache)
        worst = max(worst, play.feed(rng, [1, 1]))
    return within("distance of attention after a reload", worst, BOUND)


@law
def rows_without_a_token_come_out() -> Finding:
    """An empty row of an empty batch can be extracted as an empty cache."""
    taken = [
        batch.extract(0)
        for batch in (caching.BatchKVCache([0, 0]), caching.BatchRotatingKVCache(WINDOW, [0, 0]))
    ]
    return within("tokens in the extracted row", max(cache.size() for cache in taken), 0)


@law
def quantised_caches_round() -> Finding:
    """A quantised cache holds keys and values rounded to its grid, past its allocation step."""
    rng = np.random.default_rng(0)
    play = Histories(caching.QuantizedKVCache(GROUP, BITS), rows=1, rounded=True)
    worst = max(play.feed(rng, [length]) for length in (5, 1, 300, 1, 1, 40))
    play.trim(50)
    worst = max(worst, play.feed(rng, [3]))
    later = single(None)
    later.feed(rng, [7])
    later.cache = later.cache.to_quantized(group_size=GROUP, bits=BITS)
    later.round_rows()
    worst = max(worst, later.feed(rng, [1]))
    return within("distance of attention over a quantised cache from its definition", worst, BOUND)
