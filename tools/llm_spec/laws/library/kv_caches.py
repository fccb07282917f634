"""Laws of mlx-lm's cache objects themselves, without a model.

A cache's definition is the whole history: whatever it is told to do, attention over the keys,
values and mask that it hands out is attention over every token it was fed (the last `window` of
them for a rotating cache), each row by itself. Plays that hypothesis draws run every operation
after every other, past the step by which caches grow and past the point where a ring wraps; of one
that fails, the finding tells the fewest moves.
"""

from __future__ import annotations

import copy

import numpy as np
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from, tuples
from mlx_lm.models.cache import (
    BatchKVCache,
    BatchRotatingKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from llm_spec.laws.execution import reloaded
from llm_spec.laws.finding import Finding, law, within
from llm_spec.laws.library.play import Distances, play_within, rng_of
from llm_spec.laws.library.reference_cache import BITS, GROUP, Histories, noise

WINDOW = 8
BOUND = 1e-5
"""One attention in float32 against the same in float64: where nothing is broken, the plays show at
most 9e-7 on a CPU."""
PLAYS, MOVES = 200, 12
FED = sampled_from([(), (), (), (), (1,), (5,), (20,), (9, 1, 1), (20, 5, 1), (260,), (1, 260)])
"""What a row is fed before it is merged. After (9, 1, 1) a ring has wrapped."""
FED_ROWS = lists(FED, min_size=1, max_size=2)


def single(window: int | None) -> Histories:
    """One empty cache: rotating if there is a window."""
    return Histories(RotatingKVCache(window) if window else KVCache(), rows=1, window=window)


def merged(parts: list[Histories]) -> Histories:
    """A batch of single caches with histories of unequal lengths."""
    cache = parts[0].cache.merge([part.cache for part in parts])
    whole = Histories(cache, rows=0, window=parts[0].window)
    whole.take_rows([row for part in parts for row in part.rows])
    return whole


class SingleCache(RuleBasedStateMachine):
    """One cache, plain or rotating, next to all that it was fed."""

    seen = Distances(BOUND)

    @initialize(window=sampled_from([None, WINDOW]))
    def start(self, window: int | None) -> None:
        self.rng = rng_of(0)
        self.history = single(window)

    @rule(tokens=sampled_from([1, 1, 2, 7, 20, 255]))
    def feed(self, tokens: int) -> None:
        self.seen.note(self.history.feed(self.rng, [tokens]))

    @precondition(lambda self: self.history.shortest > 1 and self.history.cache.is_trimmable())
    @rule(tokens=sampled_from([1, 2, 9, 300]))
    def trim(self, tokens: int) -> None:
        self.history.trim(min(tokens, self.history.shortest - 1))

    @rule()
    def copy(self) -> None:
        """What is fed to the original does not reach the copy."""
        original, self.history.cache = self.history.cache, copy.deepcopy(self.history.cache)
        self.seen.note(self.history.feed(self.rng, [3]))
        original.update_and_fetch(*noise(self.rng, rows=1, tokens=5))

    @precondition(lambda self: self.history.shortest)
    @rule()
    def reload(self) -> None:
        self.history.cache = reloaded([self.history.cache])[0]


@law
def single_caches_remember() -> Finding:
    """Fed in pieces, trimmed, copied and reloaded, a cache gives attention to its history."""
    SingleCache.seen = Distances(BOUND)
    what = "distance of attention over a cache from that over its history"
    return play_within(what, SingleCache, SingleCache.seen, PLAYS, MOVES)


class BatchCache(RuleBasedStateMachine):
    """A batch of caches, plain or rotating, next to all that each row was fed."""

    seen = Distances(BOUND)

    @initialize(window=sampled_from([None, WINDOW]), lengths=FED_ROWS)
    def start(self, window: int | None, lengths: list[tuple[int, ...]]) -> None:
        self.rng = rng_of(0)
        self.batch = merged([self._fed(window, each) for each in lengths])
        self.decoded = False

    def _fed(self, window: int | None, lengths: tuple[int, ...]) -> Histories:
        row = single(window)
        for length in lengths:
            self.seen.note(row.feed(self.rng, [length]))
        return row

    @rule()
    def decode(self) -> None:
        # See chunks_follow_tokens: after single tokens a ring takes no chunk in a batch.
        self.decoded = self.batch.window is not None
        self.seen.note(self.batch.feed(self.rng, [1] * len(self.batch.rows)))

    @precondition(lambda self: not self.decoded)
    @rule(lengths=tuples(*[integers(1, 12)] * 5))
    def prefill(self, lengths: tuple[int, ...]) -> None:
        """Prompts of unequal lengths, padded on the right."""
        self.seen.note(self.batch.feed(self.rng, lengths[: len(self.batch.rows)]))

    @precondition(lambda self: len(self.batch.rows) > 1)
    @rule(kept=tuples(*[booleans()] * 5))
    def keep(self, kept: tuple[bool, ...]) -> None:
        rows = range(len(self.batch.rows))
        self.batch.keep([row for row in rows if kept[row]] or [rows[-1]])

    @precondition(lambda self: len(self.batch.rows) < 4)
    @rule(lengths=FED_ROWS)
    def extend(self, lengths: list[tuple[int, ...]]) -> None:
        other = merged([self._fed(self.batch.window, each) for each in lengths])
        self.batch.cache.extend(other.cache)
        self.batch.take_rows(self.batch.rows + other.rows)

    @precondition(lambda self: self.batch.shortest)
    @rule()
    def extract_and_merge(self) -> None:
        self.batch = merged([self.batch.alone(row) for row in range(len(self.batch.rows))])

    @precondition(lambda self: self.batch.shortest and not self.batch.window)
    @rule()
    def reload(self) -> None:  # of rings see batch_caches_reload
        self.batch.cache = type(self.batch.cache).from_state(self.batch.cache.state)


@law
def batch_caches_keep_rows_apart() -> Finding:
    """Merged, fed unequally, filtered, joined and taken out, a row stays what it was fed."""
    BatchCache.seen = Distances(BOUND)
    what = "distance of attention in a batch from that of each row alone"
    return play_within(what, BatchCache, BatchCache.seen, PLAYS, MOVES)


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
