"""How far apart two computations of the same thing may land: the one place where bounds are made.

Derived from the unit of rounding (eps) of the number format, from depth, and from the noise that
the device itself shows when a computation is repeated. On MLX's CPU backend that noise is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from llm_spec.numerics.distances import distance, worst


def roundings(dtype: mx.Dtype) -> float:
    """How many times the error of one rounding the error of sums of `dtype` may be.

    Float32 sums round at each step. Half types are added in float32 and rounded once.
    """
    return 4 if dtype == mx.float32 else 1


def moved_by_rounding(dtype: mx.Dtype, noise: float) -> float:
    """Bound on `distance` between two orders of adding the same numbers, in a model whose logits
    one rounding per module moves by `noise` (`observe.rounding.rounding_noise`).

    Measured on tiny healthy models of 110 architectures, CPU: in float32 the largest distance is
    0.1 to 1.0 times the noise, in bfloat16 0.02 to 0.15 times. `roundings` are allowed, 4 and 1.
    Planted faults of masks, positions and caches move float32 logits by 1e-3 to 2, and bfloat16
    logits by 2 to 10 times the noise. A model that jumps far (glm_moe_dsa by its whole row) is not
    thereby excused from everything: the bound is never above 0.02 in float32, 0.15 in a half type.
    """
    return min(roundings(dtype) * noise, most_moved(dtype)) if math.isfinite(noise) else 0.0


def most_moved(dtype: mx.Dtype) -> float:
    """The largest distance that `moved_by_rounding` allows, however far a model jumps."""
    return 0.02 if dtype == mx.float32 else 0.15


def reconstruction(dtype: mx.Dtype, keys: int = 0, score: float = 0.0) -> float:
    """Bound on `attention.reconstruction_error`, for attention over `keys` in `dtype`, whose
    largest score is `score`. The instrument computes in float32.

    A score is a sum, and is off by some units of rounding (eps) of its size: its weight is off by
    as much. Measured with key biases of 100 to 300 and the sums in reverse order, the error is 1.0
    to 2.3 times eps * score in float32 for scores of 58 to 885, so 4 are allowed; in bfloat16 0.15
    to 0.35 times, so 1 is.

    What does not follow the score was measured, not derived. 123 architectures with scores below 20
    show at most 4e-6 in float32, where 1e-5 is allowed, and 4 eps in bfloat16, where 16 are. A sum
    over many keys drifts: each may add half an eps, and a fifth of that is allowed.
    """
    eps = mx.finfo(dtype).eps
    drift = keys * mx.finfo(mx.float32).eps / 10
    usual = 1e-5 if dtype == mx.float32 else 16 * eps
    return max(usual, drift, roundings(dtype) * eps * score)


def reordered(dtype: mx.Dtype, layers: int) -> float:
    """Bound on `distance` when a whole model adds the same numbers in another order: with a cache
    and without, alone and in a batch.

    Each layer adds an independent error, hence the root. The units are measured, not derived: of
    110 tiny architectures in float32 all but one stay below 10 units times the root on a CPU, and
    that one (deepseek_v41) jumps; see `moved_by_rounding`. In a half type this bound says little,
    for 16 units and 32 layers are 70 % of a row: hold half types to their measured noise, as
    `laws.finding.within_rounding` does.
    """
    return 16 * mx.finfo(dtype).eps * math.sqrt(layers)


def bounds(layers: int) -> list[dict[str, Any]]:
    """The bounds above for a model of so many layers, as rows of a table: name, value, why."""
    formats = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
    return [
        *(
            {
                "name": f"attention rebuilt from queries, keys and values, {name}",
                "value": reconstruction(dtype),
                "why": ("above all that healthy architectures show" if dtype == mx.float32
                        else f"16 units of rounding of {name}")
                + f"; {roundings(dtype)} units times the largest score where that is more",
            }
            for name, dtype in formats.items()
        ),
        {
            "name": f"the same sums in another order, {layers} layers, float32",
            "value": reordered(mx.float32, layers),
            "why": "16 units of rounding, times the root of the depth",
        },
        {
            "name": "the same sums in another order, half types and models that jump",
            "value": "the noise of one rounding per module",
            "why": "as measured on the model; 4 times that in float32",
        },
        {
            "name": "a computation repeated",
            "value": "twice its noise",
            "why": "as measured on this device, below",
        },
    ]  # fmt: skip


def repeated(noise: float) -> float:
    """Bound on `distance` between two runs of one computation: twice the measured noise."""
    return 2 * noise


def repeat_noise(compute: Callable[[], np.ndarray], runs: int = 3) -> float:
    """The largest `distance` between the first of several runs of `compute` and the others."""
    first = compute()
    return worst(distance(compute(), first) for _ in range(runs - 1))
