"""Run a model without computing anything, to see what a real run would allocate and read.

A forward pass in MLX builds a graph whose arrays know their shapes and types; as long as nothing is
evaluated, a model of any size "runs" in milliseconds. What the caches then hold, and which weights
were asked for, is what mlx-lm's own classes decided, not a formula about them.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.observe.hooks import watched

# mlx_lm.generate feeds a prompt in pieces of this many tokens, and its last token by itself.
PREFILL_STEP = 2048


@dataclass(frozen=True)
class Call:
    """One call of a module: what it was given and what it gave.

    Nothing is shown by its repr, which would compute the arrays of a model that is only declared.
    """

    module: nn.Module = field(repr=False)
    inputs: tuple[Any, ...] = field(repr=False)
    output: mx.array = field(repr=False)


class Calls(list[Call]):
    """Watches a pass and keeps the calls of modules that return one array, in order of return."""

    def left(self, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """Keep one call."""
        if isinstance(output, mx.array):
            self.append(Call(module, args, output))

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Whatever else happens in a pass is not looked at."""

    entered = cached = fused = normalised = multiplied = multiplied_packed = ignore


@dataclass(frozen=True)
class Step:
    """One forward pass: `tokens` were fed, and with them `seen` in all.

    After it the caches hold `allocated` bytes, of which the tokens seen so far fill `used`; the
    rest is room for tokens to come.
    """

    tokens: int
    seen: int
    allocated: int
    used: int


@dataclass(frozen=True)
class DryRun:
    """A run of several `steps`, and the `calls` of modules in the last of them."""

    steps: list[Step]
    calls: list[Call] = field(repr=False)

    @property
    def allocated(self) -> int:
        """Bytes that the caches hold at the end."""
        return self.steps[-1].allocated

    @property
    def used(self) -> int:
        """Bytes of the caches that the last step reads."""
        return self.steps[-1].used


def dry_run(
    model: nn.Module, prompt: int, generated: int = 0, prefill_step: int = PREFILL_STEP
) -> DryRun:
    """Feed `prompt` tokens and then `generated` more, as mlx_lm.generate does.

    All but the last token of the prompt go in pieces of `prefill_step`, the rest one by one.
    Raises ValueError for an empty prompt.
    """
    if prompt < 1:
        raise ValueError(f"A run needs a token to start from, but the prompt has {prompt}.")
    caches = make_prompt_cache(model)
    pieces = [prefill_step] * ((prompt - 1) // prefill_step) + [(prompt - 1) % prefill_step]
    fed = [piece for piece in pieces if piece] + [1] * (generated + 1)
    steps: list[Step] = []
    calls = Calls()
    for index, tokens in enumerate(fed, start=1):
        with watched(model, caches, calls) if index == len(fed) else nullcontext():
            model(mx.zeros((1, tokens), mx.int32), cache=caches)
        seen = steps[-1].seen + tokens if steps else tokens
        allocated = sum(cache.nbytes for cache in caches)
        steps.append(Step(tokens, seen, allocated, sum(_used(cache) for cache in caches)))
    return DryRun(steps, calls)


def _used(cache: Any) -> int:
    if nested := getattr(cache, "caches", None):
        return sum(_used(each) for each in nested)
    if hasattr(cache, "keys_and_values") and not cache.empty():
        arrays = cache.keys_and_values()
        return sum(array.nbytes for array in _flat(arrays))
    return cache.nbytes


def _flat(arrays: Any) -> Iterator[mx.array]:
    if isinstance(arrays, mx.array):
        yield arrays
    else:
        for each in arrays:
            yield from _flat(each)
