"""What a law sees, and what it found."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.laws.execution import logits_of
from llm_spec.numerics import tolerances
from llm_spec.observe.recorder import layers_of

NO_KERNEL = "No implementation for problem shape"  # what MLX says of products CUDA lacks


@dataclass(frozen=True)
class Case:
    """A model to hold to the laws, and the prompt to do it on.

    The prompt should run past every boundary of the model that it can afford: windows, chunks,
    sparse top-k, original context. `config` is what config.json holds; laws that write the model
    to disk need it.
    """

    model: nn.Module
    token_ids: list[int]
    config: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """(tokens, vocabulary): the whole prompt in one pass, without a cache."""
        return logits_of(self.model, self.token_ids)

    def on_another_text(self) -> Case:
        """The same model with the same tokens in the opposite order."""
        return dataclasses.replace(self, token_ids=self.token_ids[::-1])

    @property
    def dtype(self) -> mx.Dtype:
        """The floating type that most parameters have."""
        sizes: dict[mx.Dtype, int] = {}
        for _, array in tree_flatten(self.model.parameters()):
            if mx.issubdtype(array.dtype, mx.floating):
                sizes[array.dtype] = sizes.get(array.dtype, 0) + array.size
        return max(sizes, key=lambda dtype: sizes[dtype])

    @property
    def reordered(self) -> float:
        """Bound on the same sums in another order: twice, because both sides round."""
        return 2 * tolerances.reordered(self.dtype, len(layers_of(self.model)))

    @property
    def exact(self) -> float:
        """Bound on the same sums in the same order, next to other rows: none on a CPU."""
        return 0.0 if mx.default_device() == mx.Device(mx.cpu) else self.reordered


Cause = Literal["measured", "control", "raised"]
"""Why a finding is what it is: what was measured, a control that failed, or an exception."""


@dataclass(frozen=True)
class Finding:
    """Whether a law holds for a case. `holds` is None where it does not apply, with the reason."""

    what: str
    measured: float | str | None = None
    should_be: str = ""
    holds: bool | None = None
    law: str = ""
    cause: Cause = "measured"

    @property
    def says(self) -> str:
        """One sentence: measured and expected, or why the law does not apply."""
        if self.holds is None:
            return f"does not apply: {self.what}"
        shown = f"{self.measured:.3g}" if isinstance(self.measured, float) else self.measured
        return f"{self.what} = {shown}, but should be {self.should_be}"


def within(what: str, measured: float, bound: float) -> Finding:
    """`measured` must not exceed `bound`; a NaN does."""
    should_be = f"at most {bound:.2g}" if bound else "0"
    return Finding(what, float(measured), should_be, bool(measured <= bound))


def same(what: str, measured: Any, expected: Any) -> Finding:
    """`measured` must equal `expected`."""
    return Finding(what, str(measured), str(expected), measured == expected)


def not_applicable(reason: str) -> Finding:
    """The law does not apply."""
    return Finding(reason)


def vacuous(control: str) -> Finding:
    """The law's control failed: its verdict would say nothing."""
    expected = "a difference that the law could see"
    return Finding("control", control, expected, False, cause="control")


Law = Callable[[Case], Finding]
ObjectLaw = Callable[[], Finding]
TextLaw = Callable[[Any], Finding]
AnyLaw = TypeVar("AnyLaw", Law, ObjectLaw, TextLaw)


def law(check: AnyLaw) -> AnyLaw:
    """Name the finding after its law, and turn an exception of the model's code into a refutation.

    The exception of a model that cannot do what it is asked is as wrong as a wrong number.

    A distance that is too large on one text must be so on another too. Models that round
    (afm7 its keys) or route (experts, blocks of keys) part for good where two orders of adding the
    same numbers fall on two sides of a threshold: that happens on one text, by chance. A fault
    happens on all.
    """

    @functools.wraps(check)
    def checked(*given: Any) -> Finding:
        finding = _tried(check, given)
        far = finding.holds is False and isinstance(finding.measured, float)
        if far and given and isinstance(given[0], Case):
            again = _tried(check, (given[0].on_another_text(),))
            finding = again if again.holds else finding
        return finding

    return checked


def on_one_text(law: Law, case: Case) -> Finding:
    """What `law` finds on the case's own text alone: enough where it is known to be broken."""
    return _tried(inspect.unwrap(law), (case,))


def _tried(check: Callable[..., Finding], given: tuple[Any, ...]) -> Finding:
    try:
        finding = check(*given)
    except Exception as error:
        finding = Finding("raised", _sentence(error), "no exception", False, cause="raised")
        if NO_KERNEL in str(error):
            finding = not_applicable(f"MLX cannot compute it on this device: {_sentence(error)}")
    return dataclasses.replace(finding, law=check.__name__)


def _sentence(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"
