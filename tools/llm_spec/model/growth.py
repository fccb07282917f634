"""How caches grow while a prompt is read, without running the model over all of it.

What a layer gives to its cache depends on the number of tokens alone. So one pass over a few tokens
tells what each cache is given, and the caches are then given as much as a long prompt gives them. A
recurrence that is written as a loop over tokens takes minutes even where nothing is computed; a
cache takes microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import ArraysCache, make_prompt_cache

from llm_spec.model.repeats import Repeats
from llm_spec.observe.hooks import cache_parts, watched

# Tokens of the pass that is looked at: states keep the last few (of an n-gram, a convolution).
FEW = 8

Shape = tuple[tuple[int, ...], mx.Dtype]
Bytes = tuple[int, int]  # allocated, and used of them


class Updates(dict[int, list[tuple[Shape, ...]]]):
    """Watches a pass and keeps the shapes and types that each cache is given, by the cache's id."""

    def cached(self, output: Any, cache: Any, *given: Any) -> None:
        """Keep one update; what only asks for the keys and values gives none."""
        if given:
            shapes = tuple((tuple(array.shape), array.dtype) for array in given)
            self.setdefault(id(cache), []).append(shapes)

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Whatever else happens in a pass is not looked at."""

    entered = left = fused = normalised = multiplied = multiplied_packed = ignore


def grown(model: nn.Module, fed: list[int], repeats: Repeats) -> tuple[list[Any], list[Bytes]]:
    """Caches of `model` that were given pieces of `fed` tokens, and their bytes after each piece.

    Of the modules that `repeats` knows to be alike, one is run.
    A recurrent state is as a few tokens leave it. A cache of a model's own kind, which keeps more
    than states and is not given keys and values, is filled by running two pieces; beyond them its
    bytes grow as they did over the second.
    """
    tried, updates = make_prompt_cache(model), Updates()
    with watched(model, tried, updates, repeats.modules.values()), repeats.called_once(updates, []):
        model(mx.zeros((1, FEW), mx.int32), cache=tried)
    caches, sizes = make_prompt_cache(model), []
    alike: dict[str, tuple[list[Bytes], dict[str, Any]]] = {}
    own = {}
    for index, (cache, few) in enumerate(zip(_parts(caches), _parts(tried), strict=True)):
        if given := updates.get(id(few)):
            kind = f"{type(cache)} {vars(cache)} {given}"
            if kind not in alike:
                alike[kind] = [_feed(cache, given, tokens) for tokens in fed], vars(cache)
            added, state = alike[kind]
            vars(cache).update(_declared(state))
            sizes.append(added)
        elif isinstance(few, ArraysCache) or few.empty():
            vars(cache).update(vars(few))
            sizes.append([_bytes(cache)] * len(fed))
        else:
            own[index] = cache
    if own:
        filled, bytes_ = _run(model, list(own), fed, repeats)
        for cache, run in zip(own.values(), filled, strict=True):
            vars(cache).update(vars(run))
        sizes.append(bytes_)
    return caches, [_sum(piece) for piece in zip(*sizes, strict=True)]


def _run(
    model: nn.Module, own: list[int], fed: list[int], repeats: Repeats
) -> tuple[list[Any], list[Bytes]]:
    """The model's `own` caches after two pieces, and their bytes after each: a line from there."""
    caches = make_prompt_cache(model)
    parts = _parts(caches)
    kept = [parts[index] for index in own]
    found = [(0, 0)]
    with repeats.called_once({}, []):
        for tokens in fed[:2]:
            model(mx.zeros((1, tokens), mx.int32), cache=caches)
            found.append(held(kept))
            for cache in _parts(caches):
                vars(cache).update(_declared(vars(cache)))
    ran = len(found) - 1
    slope = [(b - a) / fed[ran - 1] for a, b in zip(*found[-2:], strict=True)]
    beyond = accumulate(fed[ran:])
    allocated, filled = found[-1]
    line = [(round(allocated + slope[0] * n), round(filled + slope[1] * n)) for n in beyond]
    return kept, [*found[1:], *line]


def held(caches: Iterable[Any]) -> Bytes:
    """The bytes of all `caches`: allocated, and used."""
    return _sum([_bytes(cache) for cache in caches])


def _sum(sizes: Iterable[Bytes]) -> Bytes:
    allocated, filled = zip(*sizes, strict=True)
    return sum(allocated), sum(filled)


def _bytes(cache: Any) -> Bytes:
    return cache.nbytes, _used(cache)


def _used(cache: Any) -> int:
    """Bytes of a cache that the tokens seen so far fill."""
    if (parts := cache_parts(cache)) != [cache]:
        return sum(_used(each) for each in parts)
    if hasattr(cache, "keys_and_values") and not cache.empty():
        window = getattr(cache, "max_size", None)
        return sum(_seen(array, window) for array in _flat(cache.keys_and_values()))
    return cache.nbytes


def _seen(array: mx.array, window: int | None) -> int:
    """Bytes of (…, tokens, width) that the next token reads: after a long piece a rotating cache
    holds more than its window."""
    tokens = array.shape[-2]
    return array.nbytes if not window or tokens <= window else array.nbytes * window // tokens


def _parts(caches: list[Any]) -> list[Any]:
    return [part for entry in caches for part in cache_parts(entry)]


def _feed(cache: Any, given: list[tuple[Shape, ...]], tokens: int) -> Bytes:
    """Give the cache what `tokens` tokens give it, and forget how its arrays came about."""
    if trim := getattr(cache, "maybe_trim_front", None):  # llama4 asks for it before each pass
        trim()
    for shapes in given:
        arrays = [
            mx.zeros((*shape[:2], shape[2] // FEW * tokens, *shape[3:]), dtype)
            for shape, dtype in shapes
        ]
        cache.update_and_fetch(*arrays)
    vars(cache).update(_declared(vars(cache)))
    return _bytes(cache)


def _declared(state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a cache, with arrays that do not remember how they were computed."""
    return {
        name: mx.zeros(value.shape, value.dtype) if isinstance(value, mx.array) else value
        for name, value in state.items()
    }


def _flat(arrays: Any) -> Iterator[mx.array]:
    if isinstance(arrays, mx.array):
        yield arrays
    else:
        for each in arrays:
            yield from _flat(each)
