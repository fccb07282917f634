"""What a law is held against: a model, a prompt, and how far rounding alone moves its logits."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple, Unpack

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.laws.execution import logits_of
from llm_spec.model.float32 import float32_copy, float32_fits, is_float32
from llm_spec.numerics import distances, tolerances
from llm_spec.observe.recorder import layers_of
from llm_spec.observe.rounding import SEEDS, rounding_noise

PACKING = ("quantization", "quantization_config")  # what config.json says of packed weights

Given = TypeVarTuple("Given")
Made = TypeVar("Made")


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
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, compute: Callable[[Case, Unpack[Given]], Made], *given: *Given) -> Made:
        """`compute(self, *given)`, made for the first law that asks and kept for all: nobody may
        change it."""
        key = (compute, given)
        if key not in self._made:
            self._made[key] = compute(self, *given)
        made: Made = self._made[key]
        return made

    def on(self, token_ids: list[int]) -> Case:
        """The same model on another text: rounding may move it where it moves the prompt nowhere,
        so a distance between logits of that text is held to that text's noise."""
        return Case(self.model, token_ids, self.config)

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """(tokens, vocabulary): the whole prompt in one pass, without a cache."""
        return logits_of(self.model, self.token_ids)

    @property
    def dtype(self) -> mx.Dtype:
        """The floating type that most parameters have."""
        sizes = Counter[mx.Dtype]()
        for _, array in tree_flatten(self.model.parameters()):
            if mx.issubdtype(array.dtype, mx.floating):
                sizes[array.dtype] += array.size
        return sizes.most_common(1)[0][0]

    @functools.cached_property
    def is_packed(self) -> bool:
        """Whether any of its weights are quantised."""
        return any("scales" in module for module in self.model.modules())

    @property
    def reordered(self) -> float:
        """What the same sums in another order move the logits of nearly all float32 models by, at
        most: twice, because both sides round."""
        return 2 * tolerances.reordered(mx.float32, len(layers_of(self.model)))

    @functools.cached_property
    def is_finite(self) -> bool:
        """Whether the logits are numbers: a model may rule out ids with -inf, but everywhere.

        True where a pass raises: the laws that need one tell so, and others can still judge.
        """
        try:
            logits = self.logits
        except Exception:
            return True
        ruled_out = np.isneginf(logits).all(axis=0)
        return bool(np.isfinite(logits[:, ~ruled_out]).all())

    @functools.cached_property
    def noise(self) -> float:
        """How far the logits move when everything that the model's modules hand on is moved by one
        rounding; see `rounding_noise`. Three passes, when first asked for."""
        return self._moved_by_rounding(range(SEEDS))

    @functools.cached_property
    def largest_jump(self) -> float:
        """The same of so many more passes that a model which chooses has chosen otherwise where it
        can: three passes may all choose alike."""
        return distances.worst([self.noise, self._moved_by_rounding(range(SEEDS, 4 * SEEDS))])

    def _moved_by_rounding(self, seeds: range) -> float:
        compute = functools.partial(logits_of, self.model, self.token_ids)
        return rounding_noise(self.model, compute, self.logits, seeds)

    @functools.cached_property
    def float32(self) -> Case | None:
        """The same case with a float32 copy of the weights; this case where they are in float32.

        None where the copy does not fit, for it may take half of the memory that is free, and
        where mlx-lm cannot undo the packing.
        """
        if is_float32(self.model):
            return self
        if not float32_fits(self.model):
            return None
        copy = float32_copy(self.model)
        config = {name: value for name, value in self.config.items() if name not in PACKING}
        return Case(copy, self.token_ids, config) if is_float32(copy) else None
