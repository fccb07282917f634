"""What a text costs less once parts of a model are exchanged back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import log
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from llm_spec.model.dry_run import Calls
from llm_spec.observe.hooks import patched, watched
from llm_spec.observe.recorder import layers_of
from llm_spec.quality.arrangement import Exchange
from llm_spec.quality.likelihood import logprobs_of
from llm_spec.quality.rotary import Saved, saved

FIRST = 6  # of the parts that look exchanged, those that are tried whatever comes of it
LEAST_ERRORS = 2  # standard errors that an exchange has to save


def saved_by_exchanging(
    model: nn.Module, looks: Sequence[Exchange], rows: mx.array
) -> dict[str, Saved]:
    """The exchanges after which the texts in `rows`, (texts, tokens), cost less by more than twice
    the standard error, and the bits per token that each saves beside those before it.

    The strongest signs are tried first. The others are tried if those save something, and twice:
    beside more that is wrong, one that is put right saves less. If none saves anything by itself,
    all are tried together.
    """
    layers, outputs = layers_of(model), _Outputs(layers_of(model))
    with watched(model, None, outputs):
        before = _bits(model, rows)
    mx.eval(list(outputs.given.values()))

    def bits_with(some: Sequence[Exchange]) -> np.ndarray:
        first = min(each.layer for each in some)
        with ExitStack() as changes:
            changes.enter_context(_again(layers[:first], outputs.given))
            for each in some:
                changes.enter_context(each.exchanged())
            return _bits(model, rows)

    kept: list[Exchange] = []
    found: dict[str, Saved] = {}
    strongest = sorted(looks, key=lambda each: each.sign, reverse=True)
    for count, each in enumerate(2 * strongest):
        if count == FIRST and not found:
            break
        if each in kept:
            continue
        after = bits_with([*kept, each])
        if _counts(result := saved(before, after)):
            found[each.what] = result
            kept.append(each)
            before = after
    if not found and len(looks) > 1 and _counts(result := saved(before, bits_with(looks))):
        found = {each.what: result for each in looks}
    return found


def bits_with_all_exchanged(
    model: nn.Module, looks: Sequence[Exchange], rows: mx.array
) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each token of the texts in `rows` but the first of each, as the model is and with all
    exchanges made."""
    before = _bits(model, rows)
    with ExitStack() as changes:
        for each in looks:
            changes.enter_context(each.exchanged())
        return before, _bits(model, rows)


def _counts(result: Saved) -> bool:
    return result.bits > LEAST_ERRORS * result.error


class _Outputs(Calls):
    """Keeps what layers give."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._layers = {id(layer) for layer in layers}
        self.given: dict[int, Any] = {}

    def left(self, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """Keep a handle of the arrays, which models change in place."""
        if id(module) in self._layers:
            whole = isinstance(output, mx.array)
            self.given[id(module)] = output[...] if whole else tuple(o[...] for o in output)


@contextmanager
def _again(layers: Sequence[nn.Module], given: dict[int, Any]) -> Iterator[None]:
    """Let layers give what they gave before."""
    known = {id(layer): given[id(layer)] for layer in layers if id(layer) in given}

    def replaced(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if (output := known.get(id(module))) is None:
                return original(module, *args, **kwargs)
            return output[...] if isinstance(output, mx.array) else output

        return call

    classes = {type(layer) for layer in layers}
    with patched([(each, "__call__", replaced(each.__call__)) for each in classes]):
        yield


def _bits(model: Any, rows: mx.array) -> np.ndarray:
    """Bits of each token of the texts but the first of each."""
    logits = model(rows[:, :-1]).astype(mx.float32)
    ids: Any = rows.tolist()
    found = [logprobs_of(*pair) for pair in zip(logits, ids, strict=True)]
    return -np.concatenate(found) / log(2)
