"""How far apart two computations landed. NaN compares as infinitely far, everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def distance(values: np.ndarray, reference: np.ndarray) -> float:
    """The largest distance between two rows, relative to the reference row's norm.

    Rows, because models carry a few tokens whose norm is hundreds of times that of the others: an
    absolute bound, or one relative to the largest value, would see nothing but those. Infinite
    where either side holds a NaN.
    """
    same = values == reference  # which infinities can be, where a model rules tokens out
    missed = np.subtract(values, reference, dtype=np.float64, where=~same, out=np.zeros(same.shape))
    norms = np.linalg.norm(np.where(same & np.isinf(reference), 0, reference), axis=-1)
    missed = np.linalg.norm(missed, axis=-1)
    return worst((missed / np.maximum(norms, np.finfo(np.float32).tiny)).reshape(-1).tolist())


def worst(distances: Iterable[float]) -> float:
    """The largest of some distances; infinite where one is NaN.

    Python's `max` keeps its first argument when compared with a NaN, so it can lose one. Raises
    ValueError where there are none: nothing compared is nothing proved.
    """
    return max(math.inf if math.isnan(each) else each for each in distances)
