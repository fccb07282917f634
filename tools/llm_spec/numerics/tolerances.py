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
    """How many times the noise of one rounding per module (`observe.rounding`) the distance between
    two orders of adding the same numbers may be.

    Measured on tiny healthy models, CPU. In float32 the sums themselves round, and the largest
    distance is 0.1 to 1.0 times the noise: 4 are allowed. Half types are added in float32 and
    rounded once, and the largest is 0.15 times the noise: 1 is allowed. Planted faults of masks,
    positions and caches move bfloat16 logits by 2 to 10 times the noise.
    """
    return 4 if dtype == mx.float32 else 1


def reconstruction(dtype: mx.Dtype, keys: int = 0) -> float:
    """Bound on `attention.reconstruction_error`, for attention over `keys` in `dtype`.

    The instrument computes in float32. In float32 both sides round alike, up to the order in which
    they add, and 1e-5 is above all that 123 architectures show (4e-6). A sum over many keys drifts:
    each may add half a unit of rounding (eps), and a fifth of that is allowed. In a half format the
    model rounds each score, weight and output; a score of ten then moves its weight by ten units,
    and 16 are allowed.
    """
    drift = keys * mx.finfo(mx.float32).eps / 10
    return max(1e-5 if dtype == mx.float32 else 16 * mx.finfo(dtype).eps, drift)


def reordered(dtype: mx.Dtype, layers: int) -> float:
    """Bound on `distance` when a whole model adds the same numbers in another order: with a cache
    and without, alone and in a batch. Each layer adds an independent error of some units."""
    return 16 * mx.finfo(dtype).eps * math.sqrt(layers)


def bounds(layers: int) -> list[dict[str, Any]]:
    """The bounds above for a model of so many layers, as rows of a table: name, value, why."""
    formats = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
    return [
        *(
            {
                "name": f"attention rebuilt from queries, keys and values, {name}",
                "value": reconstruction(dtype),
                "why": "above all that healthy architectures show" if dtype == mx.float32
                else f"16 units of rounding of {name}",
            }
            for name, dtype in formats.items()
        ),
        *(
            {
                "name": f"the same sums in another order, {layers} layers, {name}",
                "value": reordered(dtype, layers),
                "why": "16 units of rounding, times the root of the depth",
            }
            for name, dtype in formats.items()
        ),
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
