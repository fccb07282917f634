"""Every operation of a cache of states, and of a cache of chunks, after every other."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.strategies import booleans, lists, sampled_from, tuples
from mlx_lm.models.cache import ArraysCache, ChunkedKVCache

from llm_spec.laws.execution import reloaded
from llm_spec.laws.library.play import Missed, rng_of
from llm_spec.laws.library.reference_cache import numbered

CHUNK = 16
Row = list[np.ndarray | None]
"""One row of a state cache: its arrays, or None before the first token."""
FILLED_ROWS = lists(booleans(), min_size=1, max_size=3)
"""Which of one to three rows hold a state already."""


class ChunkedCache(RuleBasedStateMachine):
    """A chunked cache, next to how many tokens it was fed: each key holds its token's place."""

    @initialize()
    def start(self) -> None:
        self.cache = ChunkedKVCache(CHUNK)
        self.fed, self.first = 0, 0

    @rule(tokens=sampled_from([1, 1, 5, 20, 300]))
    def feed(self, tokens: int) -> None:
        self.cache.maybe_trim_front()  # as llama4 does before each pass
        self.first = max(self.first, self.fed - CHUNK)
        keys, _ = self.cache.update_and_fetch(*[numbered(range(self.fed, self.fed + tokens))] * 2)
        self.fed += tokens
        held = [int(key) for key in np.array(keys)[0, 0, :, 0]]
        start = self.cache.start_position
        if held != list(range(self.first, self.fed)) or start != self.first:
            says = f"{len(held)} tokens from {start}, not {self.fed - self.first} from {self.first}"
            raise Missed(says)

    @precondition(lambda self: self.fed - self.first > 1)
    @rule()
    def trim(self) -> None:
        self.fed -= self.cache.trim(1)

    @precondition(lambda self: self.fed)
    @rule()
    def reload(self) -> None:
        self.cache = reloaded([self.cache])[0]


class StateCache(RuleBasedStateMachine):
    """A batch of state caches, next to the arrays that each row was given."""

    @initialize(filled=FILLED_ROWS)
    def start(self, filled: list[bool]) -> None:
        self.rng = rng_of(0)
        self.rows = [self._row(each) for each in filled]
        self.cache = ArraysCache.merge([_alone(row) for row in self.rows])

    def _row(self, filled: bool) -> Row:
        drawn = [self.rng.standard_normal(3).astype(np.float32) for _ in range(2)]
        return [*drawn] if filled else [None, None]

    @precondition(lambda self: len(self.rows) > 1)
    @rule(kept=tuples(*[booleans()] * 7))
    def keep(self, kept: tuple[bool, ...]) -> None:
        places = range(len(self.rows))
        left = [place for place in places if kept[place]] or [places[-1]]
        self.cache.filter(left)
        self.rows = [self.rows[place] for place in left]

    @precondition(lambda self: len(self.rows) < 5)
    @rule(filled=FILLED_ROWS)
    def extend(self, filled: list[bool]) -> None:
        more = [self._row(each) for each in filled]
        self.cache.extend(ArraysCache.merge([_alone(row) for row in more]))
        self.rows = self.rows + more

    @rule()
    def write(self) -> None:
        for e in range(2):
            new = self.rng.standard_normal((len(self.rows), 3)).astype(np.float32)
            self.cache[e] = mx.array(new)
            for i, row in enumerate(self.rows):
                row[e] = new[i]

    @precondition(lambda self: any(row[0] is not None for row in self.rows))
    @rule()
    def extract_and_merge(self) -> None:
        self.cache = ArraysCache.merge([self.cache.extract(i) for i in range(len(self.rows))])

    @precondition(lambda self: any(row[0] is not None for row in self.rows))
    @rule()
    def reload(self) -> None:
        self.cache = reloaded([self.cache])[0]

    @invariant()
    def holds_its_rows(self) -> None:
        if not _holds(self.cache, self.rows):
            raise Missed("another state")


def _alone(row: Row) -> ArraysCache:
    cache = ArraysCache(2)
    for e, state in enumerate(row):
        cache[e] = None if state is None else mx.array(state[None])
    return cache


def _holds(cache: ArraysCache, rows: list[Row]) -> bool:
    if cache.batch_size != len(rows):
        return False
    for e in range(2):
        states = [row[e] for row in rows]
        wanted = np.stack([np.zeros(3, np.float32) if s is None else s for s in states])
        if cache[e] is None:
            if wanted.any():
                return False
        elif not np.array_equal(np.array(cache[e]), wanted):
            return False
    return True
