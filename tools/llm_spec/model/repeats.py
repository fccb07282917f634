"""Run one module of each kind where a pass is only asked for shapes.

Layers of a model repeat each other. What a module gives, and what it leaves in a cache, has shapes
that depend on those of what it is given and on its own. So what the first of a kind gave and left
stands for what the others would.
"""

from __future__ import annotations

import functools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn

from llm_spec.observe.hooks import patched
from llm_spec.observe.modules import Walk, walk

PLACE = re.compile("layer|idx|index")  # of attributes that may tell a layer's place
PLAIN = (str, int, float, bool, type(None), mx.Dtype)
NO_HOLDERS = (mx.array, *PLAIN, nn.Module, list, tuple)


class Effect(NamedTuple):
    """What a call gave; of each cache and dictionary that it was given, what it held after it and
    what it was told meanwhile; and the calls of the modules in it, with their places in it."""

    output: Any
    left: list[dict[str, Any]]
    told: list[list[Any]]
    calls: list[tuple[str, Any]]


class Repeats:
    """Which modules of a model are alike: `walked` is a walk over it."""

    def __init__(self, walked: Walk, kinds: Kinds | None = None) -> None:
        self.modules = walked.modules
        self._kinds = kinds or Kinds()
        self._path = {id(module): path for path, module in self.modules.items()}
        self._number = {id(module): self._kinds.of(module) for module in self.modules.values()}
        numbers = Counter(self._number.values())
        self._many = {kind for kind, count in numbers.items() if count > 1}

    @contextmanager
    def called_once(self, updates: dict[int, list[Any]], calls: list[Any]) -> Iterator[None]:
        """While the context is open, modules that are alike and are given alike are called once,
        for passes that compute nothing. What a watcher keeps meanwhile is repeated too: `updates`
        by a cache's id, and `calls`, each of a `module`."""
        effects: dict[Any, Effect] = {}
        repeating = set(self._many)  # until one of a kind does more than give and leave arrays

        def once(original: Any) -> Any:
            @functools.wraps(original)
            def replacement(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                kind, given = self._number.get(id(module)), [*args, *kwargs, *kwargs.values()]
                if kind not in repeating or (form := _form(given)) is None:
                    return original(module, *args, **kwargs)
                holders = list(_holders(given))
                if effect := effects.get((kind, form)):
                    _repeat(effect, holders, updates)
                    calls.extend(self._calls(effect, module))
                    return effect.output
                before = [len(updates.get(id(each), ())) for each in holders]
                called = len(calls)
                output = original(module, *args, **kwargs)
                left = [dict(_contents(each)) for each in holders]
                # Not where it keeps something of a pass, or gives what is more than arrays.
                whole = _form(output) and not list(_holders(output))
                if whole and None not in map(_form, left) and self._kinds.again(module) == kind:
                    told = [
                        updates.get(id(h), [])[n:] for h, n in zip(holders, before, strict=True)
                    ]
                    places = {id(m): place for place, m in walk(module).modules.items()}
                    inside = [(places[id(call.module)], call) for call in calls[called:]]
                    effects[kind, form] = Effect(output, [*map(_copied, left)], told, inside)
                else:
                    repeating.discard(kind)
                return output

            return replacement

        # MLX's own modules take one step each, and looking them up takes as long.
        classes = {type(each) for each in self.modules.values()}
        own = [each for each in classes if not each.__module__.startswith("mlx.")]
        with patched([(each, "__call__", once(each.__call__)) for each in own]):
            yield

    def _calls(self, effect: Effect, module: nn.Module) -> Iterator[Any]:
        """The calls in it, as if made in `module`."""
        path = self._path[id(module)]
        for place, call in effect.calls:
            inside = self.modules[f"{path}.{place}" if place else path]
            yield type(call)(inside, call.inputs, call.output)


def _repeat(effect: Effect, holders: list[Any], updates: dict[int, list[Any]]) -> None:
    for holder, left, told in zip(holders, effect.left, effect.told, strict=True):
        _contents(holder).update(_copied(left))
        if told:
            updates.setdefault(id(holder), []).extend(told)


def _copied(contents: dict[str, Any]) -> dict[str, Any]:
    """Without the caches that a cache consists of: what they hold is kept of each."""
    kept = {name: value for name, value in contents.items() if not list(_holders(value))}
    return {name: list(v) if isinstance(v, list) else v for name, v in kept.items()}


class Kinds:
    """Numbers modules: alike are those of one class whose arrays have the same shapes, whose other
    attributes are equal, and whose modules are alike.

    Left out is the number of a layer that a module keeps and that no code reads.
    """

    def __init__(self, numbers: dict[Any, int] | None = None) -> None:
        self._numbers = {} if numbers is None else numbers
        self._known: dict[int, int] = {}
        self._unread: dict[str, bool] = {}
        self._sources: list[str] = []

    def of(self, module: nn.Module) -> int:
        """The number of its kind."""
        if (known := self._known.get(id(module))) is None:
            form = type(module), self._attributes(vars(module)), self._attributes(module)
            known = self._known[id(module)] = self._numbers.setdefault(form, len(self._numbers))
        return known

    def again(self, module: nn.Module) -> int:
        """The number of its kind as it is now: it may have changed."""
        kinds = Kinds(self._numbers)
        kinds._unread = self._unread
        return kinds.of(module)

    def _attributes(self, attributes: dict[str, Any]) -> tuple[Any, ...]:
        found = []
        for name, value in attributes.items():
            kind: Any = type(value)
            if kind is mx.array:
                found += [name, value.shape, value.dtype]
            elif kind in PLAIN:
                if kind is not int or not PLACE.search(name) or not self._is_unread(name):
                    found += [name, kind, value]
            elif name != "_no_grad":  # which only training reads
                found += [name, self._form(value)]
        return tuple(found)

    def _is_unread(self, name: str) -> bool:
        """Whether mlx-lm's models give a module the attribute and never ask for it."""
        if (unread := self._unread.get(name)) is None:
            asked = re.compile(rf"\.{name}\b(?!\s*=[^=])|[\"']{name}[\"']")
            self._sources = self._sources or _sources()
            unread = self._unread[name] = not any(map(asked.search, self._sources))
        return unread

    def _form(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return "module", self.of(value)
        if isinstance(value, list | tuple):
            return type(value), tuple(self._form(each) for each in value)
        if isinstance(value, (mx.array, *PLAIN)):
            return _form(value)
        return "one", id(value)


def _sources() -> list[str]:
    """The code of mlx-lm's models as far as it is imported, and of MLX's modules."""
    names = [name for name in sys.modules if name.startswith(("mlx_lm.models.", "mlx.nn."))]
    files = [getattr(sys.modules[name], "__file__", None) for name in names]
    return [Path(file).read_text(encoding="utf-8") for file in files if file]


def _form(value: Any) -> tuple[Any, ...] | None:
    """What is equal for values that are alike: arrays of one shape, caches that hold such. None for
    what may be more than it holds."""
    if isinstance(value, mx.array):
        return value.shape, value.dtype
    if isinstance(value, PLAIN):
        return type(value), value
    if not isinstance(value, list | tuple) and not _holds(value):
        return None
    contents = _contents(value) if _holds(value) else dict(enumerate(value))
    forms = [_form(each) for each in contents.values()]
    return None if None in forms else (type(value), *contents, *forms)


def _holders(value: Any) -> Iterator[Any]:
    """The caches and dictionaries in `value`, which a call may change."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _holders(each)
    elif _holds(value):
        yield value
        for each in _contents(value).values():
            yield from _holders(each)


def _holds(value: Any) -> bool:
    if isinstance(value, NO_HOLDERS) or callable(value):
        return False
    return isinstance(value, dict) or hasattr(value, "__dict__")


def _contents(holder: Any) -> dict[str, Any]:
    return holder if isinstance(holder, dict) else vars(holder)
