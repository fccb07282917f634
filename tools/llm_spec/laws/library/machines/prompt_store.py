"""Prompts stored and looked up, in any order."""

from __future__ import annotations

import mlx.core as mx
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.strategies import integers, lists
from mlx_lm.models import cache as caching
from mlx_lm.models.cache import KVCache

from llm_spec.laws.library.play import Missed
from llm_spec.laws.library.reference_cache import numbered

PROMPTS = lists(integers(1, 2), min_size=1, max_size=8)


class PromptStore(RuleBasedStateMachine):
    """A store of prompt caches, next to the prompt that was stored last."""

    @initialize()
    def start(self) -> None:
        self.store = caching.LRUPromptCache(max_size=4)
        self.last: list[int] = []

    @rule(tokens=PROMPTS)
    def insert(self, tokens: list[int]) -> None:
        self.store.insert_cache("model", list(tokens), [holding(tokens)])
        self.last = tokens

    @rule(tokens=PROMPTS)
    def fetch(self, tokens: list[int]) -> None:
        """The cache and the rest add up to the prompt; what is done to the cache stays there."""
        found, rest = self.store.fetch_nearest_cache("model", list(tokens))
        held = _held(found[0]) if found else []
        if held + list(rest) != tokens:
            raise Missed(f"{held} and {list(rest)} for {tokens}")
        if len(held) < self._least(tokens):
            raise Missed(f"{len(held)} tokens of {tokens} found after {self.last} was stored")
        if found:
            found[0].update_and_fetch(*[mx.zeros((1, 1, 1, 1))] * 2)

    def _least(self, tokens: list[int]) -> int:
        """How many tokens the store must find where one of the two prompts begins the other: all
        but one, since the model is to be asked for the next; all where they are the same."""
        if tokens == self.last:
            return len(tokens)
        shared = min(len(tokens) - 1, len(self.last))
        return shared if tokens[:shared] == self.last[:shared] else 0


def holding(tokens: list[int]) -> KVCache:
    """A cache whose keys and values are its token ids."""
    cache = KVCache()
    cache.update_and_fetch(*[numbered(tokens)] * 2)
    return cache


def _held(cache: KVCache) -> list[int]:
    keys, _ = cache.keys_and_values()
    return [int(key) for key in keys.reshape(-1).tolist()]
