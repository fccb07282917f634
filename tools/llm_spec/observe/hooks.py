"""Watching one forward pass from outside, without changing what it computes.

While a pass is watched, the calls of every module class of the model, of its caches, of MLX's fused
attention and of what attention is written out with (softmax and matrix products) are replaced by
ones that call the original, tell a watcher, and return what the original returned.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from llm_spec.observe.modules import modules_of

Function = Callable[..., Any]


class Watcher(Protocol):
    """What is told of a pass: each method is given the result of a call, then its arguments.

    Arrays are lazy, and models change some of them in place later: keep another handle, `x[...]`.
    """

    def entered(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """A module is about to be called."""

    def left(self, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """A module, or an embedding used as the head, has been called."""

    def cached(self, output: Any, cache: Any, *args: Any, **kwargs: Any) -> None:
        """A cache has given out the keys and values that it holds."""

    def fused(self, output: mx.array, q: mx.array, k: mx.array, v: mx.array, **how: Any) -> None:
        """MLX's fused attention has been used."""

    def normalised(self, output: mx.array, scores: mx.array, axis: Any = None, **_: Any) -> None:
        """A softmax has been taken."""

    def multiplied(self, output: mx.array, a: mx.array, b: mx.array, **_: Any) -> None:
        """A matrix product has been taken."""

    def multiplied_packed(
        self, output: mx.array, a: mx.array, b: mx.array, *args: Any, **how: Any
    ) -> None:
        """A product with a quantised matrix has been taken."""


@contextmanager
def watched(
    model: nn.Module,
    cache: list[Any] | None,
    watcher: Watcher,
    modules: Iterable[nn.Module] | None = None,
) -> Iterator[None]:
    """Tell `watcher` what `model` does in this thread while the context is open. `modules` are the
    model's, where they have been looked for.

    Everything is put back when it closes, after an exception or an interrupt too. The patches reach
    the whole process, so watch one model at a time; calls in other threads pass through unnoticed.
    """
    thread = threading.get_ident()

    def told(original: Function, after: Function, before: Function | None) -> Function:
        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(*args, **kwargs)
            if before is not None:
                before(*args, **kwargs)
            output = original(*args, **kwargs)
            after(output, *args, **kwargs)
            return output

        return replacement

    # Originals are looked up before the first patch: a subclass would inherit a patch, and add one.
    classes = {type(module) for module in modules or modules_of(model).values()}
    plan = [
        (owner, name, told(getattr(owner, name), after, before))
        for owner, name, after, before in _points(classes, cache, watcher)
        if hasattr(owner, name)
    ]
    with patched(plan):
        yield


@contextmanager
def output_replaced(module: nn.Module, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Let `module` return `replace(output)` while the context is open."""
    original = type(module).__call__

    @functools.wraps(original)
    def replacement(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        return replace(output) if self is module else output

    with patched([(type(module), "__call__", replacement)]):
        yield


@contextmanager
def outputs_replaced(model: nn.Module, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Let every module of `model` return `replace(output)` while the context is open: the calls of
    all its classes, and of embeddings that are used as the head."""

    def replaced(original: Function) -> Function:
        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return replace(original(*args, **kwargs))

        return replacement

    classes = {type(module) for module in model.modules()}
    plan = [
        (owner, name, replaced(getattr(owner, name)))
        for owner in classes
        for name in ("__call__", "as_linear")
        if hasattr(owner, name)
    ]
    with patched(plan):
        yield


@contextmanager
def patched(plan: list[tuple[Any, str, Function]]) -> Iterator[None]:
    """Let each owner's attribute be the replacement while the context is open."""
    with ExitStack() as patches:
        for owner, name, replacement in plan:
            # The way back is laid before each step: an interrupt may come between the two.
            if name in vars(owner):
                patches.callback(setattr, owner, name, vars(owner)[name])
            else:
                patches.callback(_inherit, owner, name)
            setattr(owner, name, replacement)
        yield


def _inherit(owner: type, name: str) -> None:
    if name in vars(owner):
        delattr(owner, name)


def _points(
    classes: set[type], cache: list[Any] | None, watcher: Watcher
) -> Iterator[tuple[Any, str, Function, Function | None]]:
    """Where to watch: the owner and name of each function, and whom to tell after and before."""
    for module_class in classes:
        yield module_class, "__call__", watcher.left, watcher.entered
        yield module_class, "as_linear", watcher.left, watcher.entered
    for cache_class in {type(part) for entry in cache or () for part in cache_parts(entry)}:
        yield cache_class, "update_and_fetch", watcher.cached, None
        yield cache_class, "keys_and_values", watcher.cached, None
    yield mx.fast, "scaled_dot_product_attention", watcher.fused, None
    yield mx, "softmax", watcher.normalised, None
    yield mx, "matmul", watcher.multiplied, None
    yield mx.array, "__matmul__", watcher.multiplied, None
    yield mx, "quantized_matmul", watcher.multiplied_packed, None


def cache_parts(entry: Any) -> list[Any]:
    """One layer's cache, or the several that a layer keeps side by side."""
    return list(getattr(entry, "caches", (entry,)))
