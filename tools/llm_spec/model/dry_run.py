"""Run a model without computing anything, to see what a real run would allocate and read.

A forward pass in MLX builds a graph whose arrays know their shapes and types; as long as nothing is
evaluated, a model of any size "runs" in milliseconds. What the caches then hold, and which weights
were asked for, is what mlx-lm's own classes decided, not a formula about them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.model.growth import grown, held
from llm_spec.model.repeats import Repeats
from llm_spec.model.steps import PREFILL_STEP, Step, pieces
from llm_spec.observe.hooks import patched, watched
from llm_spec.observe.modules import walk


@dataclass(slots=True)
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
    model: nn.Module,
    prompt: int,
    generated: int = 0,
    prefill_step: int = PREFILL_STEP,
    repeats: Repeats | None = None,
) -> DryRun:
    """Feed `prompt` tokens and then `generated` more, as mlx_lm.generate does.

    All but the last token of the prompt go in pieces of `prefill_step`, the rest one by one. The
    model is run over the last token only; its caches are fed what comes before it (`growth`).
    `repeats` tells which of its modules are alike, where that is known.
    Raises ValueError for an empty prompt.
    """
    if prompt < 1:
        raise ValueError(f"A run needs a token to start from, but the prompt has {prompt}.")
    fed = pieces(prompt, prefill_step) + [1] * generated
    repeats = repeats or Repeats(walk(model))
    with nothing_computed():
        caches, sizes = grown(model, fed, repeats) if fed else (make_prompt_cache(model), [])
        before, calls = held(caches), Calls()
        watching = watched(model, caches, calls, repeats.modules.values())
        with watching, repeats.called_once({}, calls):
            model(mx.zeros((1, 1), mx.int32), cache=caches)
    # What the last token adds: not every cache was given all that comes before it.
    so_far, after = sizes[-1] if sizes else (0, 0), held(caches)
    sizes.append((so_far[0] + after[0] - before[0], so_far[1] + after[1] - before[1]))
    fed.append(1)
    seen = accumulate(fed)
    steps = [Step(n, all_, *size) for n, all_, size in zip(fed, seen, sizes, strict=True)]
    return DryRun(steps, calls)


@contextmanager
def nothing_computed() -> Iterator[None]:
    """While the context is open, an array whose numbers are asked for is not computed: it has 0, 1,
    2, … along its last axis. dbrx asks for the ids of the experts that its router picks."""

    def tolist(array: mx.array) -> Any:
        if not array.shape:
            return _numbers(array.dtype, 1)[0]
        rows = math.prod(array.shape[:-1])
        found: list[Any] = [_numbers(array.dtype, array.shape[-1]) for _ in range(rows)]
        for length in reversed(array.shape[1:-1]):
            found = [found[start : start + length] for start in range(0, len(found), length)]
        return found if array.ndim > 1 else found[0]

    def item(array: mx.array) -> Any:
        return _numbers(array.dtype, 1)[0]

    unevaluated: list[tuple[Any, str, Any]] = [
        (mx.array, "tolist", tolist),
        (mx.array, "item", item),
        (mx, "eval", lambda *arrays: None),
    ]
    with patched(unevaluated):
        yield


def _numbers(dtype: mx.Dtype, count: int) -> list[Any]:
    if dtype == mx.bool_:
        return [False] * count
    return list(map(int if mx.issubdtype(dtype, mx.integer) else float, range(count)))
