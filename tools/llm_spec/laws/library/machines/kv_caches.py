"""Every operation of a cache of keys and values after every other."""

from __future__ import annotations

import copy

from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from, tuples

from llm_spec.laws.execution import reloaded
from llm_spec.laws.library.play import Distances, rng_of
from llm_spec.laws.library.reference_cache import (
    WINDOW,
    Histories,
    merged,
    noise,
    rebuilt,
    single,
)

FED = sampled_from([(), (), (), (), (1,), (5,), (20,), (9, 1, 1), (20, 5, 1), (260,), (1, 260)])
"""What a row is fed before it is merged. After (9, 1, 1) a ring has wrapped."""
FED_ROWS = lists(FED, min_size=1, max_size=2)


class SingleCache(RuleBasedStateMachine):
    """One cache, plain or rotating, next to all that it was fed."""

    seen: Distances

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


class BatchCache(RuleBasedStateMachine):
    """A batch of caches, plain or rotating, next to all that each row was fed."""

    seen: Distances

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
        self.batch.cache = rebuilt(self.batch.cache)
