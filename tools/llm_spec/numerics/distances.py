"""How far apart two computations landed. NaN compares as infinitely far, everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

AT_ONCE = 2**16  # numbers


def distance(values: np.ndarray, reference: np.ndarray) -> float:
    """The largest distance between two rows, relative to the reference row's norm.

    Rows, because models carry a few tokens whose norm is hundreds of times that of the others: an
    absolute bound, or one relative to the largest value, would see nothing but those. Infinite
    where either side holds a NaN.
    """
    shape = np.broadcast_shapes(np.shape(values), np.shape(reference))
    rows, width = math.prod(shape[:-1]), shape[-1]
    values, reference = (
        np.broadcast_to(each, shape).reshape(rows, width) for each in (values, reference)
    )
    # Some rows at a time: what is made of them stays in the processor's cache.
    step = max(1, AT_ONCE // max(1, width))
    starts = range(0, rows, step)
    return worst(
        each for i in starts for each in _of_rows(values[i : i + step], reference[i : i + step])
    )


def _of_rows(values: np.ndarray, reference: np.ndarray) -> list[float]:
    """Each row's distance, (rows, width), relative to the reference row's norm."""
    same = values == reference  # which infinities can be, where a model rules tokens out
    if same.all():
        return [0.0] * len(same)
    with np.errstate(invalid="ignore"):
        missed = np.subtract(values, reference, dtype=np.float64)
    missed[same] = 0
    if (ruled_out := same & np.isinf(reference)).any():
        reference = np.where(ruled_out, 0, reference)
    norms = np.linalg.norm(reference, axis=-1)
    relative = np.linalg.norm(missed, axis=-1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return list(map(float, relative))


def worst(distances: Iterable[float]) -> float:
    """The largest of some distances; infinite where one is NaN.

    Python's `max` keeps its first argument when compared with a NaN, so it can lose one. Raises
    ValueError where there are none: nothing compared is nothing proved.
    """
    return max(math.inf if math.isnan(each) else each for each in distances)
