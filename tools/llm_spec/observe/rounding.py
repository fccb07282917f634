"""How far a model's logits move when its own numbers are moved by one rounding.

Two right ways to add the same numbers differ by roundings: with a cache and without, alone and in a
batch. So what a rounding does to a model's logits is measured, and not guessed from its number
format: a model that chooses (experts, blocks of keys, n-grams) jumps where a choice was close.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from llm_spec.numerics import distances
from llm_spec.observe.hooks import outputs_replaced

SEEDS = 3


def rounding_noise(
    model: nn.Module,
    compute: Callable[[], np.ndarray],
    usual: np.ndarray | None = None,
    seeds: range = range(SEEDS),
) -> float:
    """The largest `distances.distance` by which `compute` moves when roundings do.

    In one run per seed, each number that a module of `model` hands on is multiplied by
    1 - eps, 1 or 1 + eps at random, eps being the unit of rounding of the number's own type.

    Args:
        compute: runs `model` and returns (tokens, vocabulary) logits.
        usual: what `compute` returns when nothing is moved, where that is known.
    """
    expected = compute() if usual is None else usual
    moved = []
    for seed in seeds:
        with outputs_replaced(model, _Rounding(seed)):
            moved.append(distances.distance(compute(), expected))
    return distances.worst(moved)


class _Rounding:
    """Moves the floating-point arrays in a module's output by one rounding each."""

    def __init__(self, seed: int) -> None:
        self._keys = (mx.random.key(seed + SEEDS * call) for call in count())

    def __call__(self, output: Any) -> Any:
        if isinstance(output, (tuple, list)) and type(output) in (tuple, list):
            return type(output)([self(part) for part in output])
        if not isinstance(output, mx.array) or not mx.issubdtype(output.dtype, mx.floating):
            return output
        units = mx.random.randint(-1, 2, output.shape, key=next(self._keys))
        return output * (1 + mx.finfo(output.dtype).eps * units).astype(output.dtype)
