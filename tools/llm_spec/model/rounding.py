"""Whether numbers are others, rounded to the nearest that their storage can hold.

In NumPy and in pieces that stay in a processor's cache: every weight of a model is looked at.
"""

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from llm_spec.model.quantisation import Scheme
from llm_spec.model.storage import Grid, Way

NUMBERS_AT_ONCE = 1 << 17


def mean_square(array: mx.array, less: mx.array | None = None) -> float:
    """The mean of the square of `array`, or of what it is over `less`; 0 where it is empty."""
    total = 0.0
    rows = _rows(array)
    others = None if less is None else _rows(less)
    for piece in _pieces(rows):
        each = rows[piece] if others is None else rows[piece] - others[piece]
        total += float(np.einsum("ij,ij->i", each, each).sum(dtype=np.float64))
    return total / array.size if array.size else 0.0


def share_beyond_rounding(
    array: mx.array,
    original: mx.array,
    way: Way,
    grid: Grid | None,
    relative: float = 0.0,
    slack: np.ndarray | None = None,
) -> float:
    """The share of numbers that are not what rounding `original` to the nearest would give.

    Rounding is off by at most half a step of the stored grid, and by a whole one where the grid
    ends before the number (see `quantisation`). In a floating format half a unit in the last place
    takes the step's part. The scales and biases of a grid, and the number before it was quantised,
    were rounded to the format of the scales, which may add half a unit of each. `relative` to the
    root mean square of its row, each number may be off by more, and by its `slack`, shaped as the
    array. All arrays are float32, (…, columns). NaN counts as beyond. The steps of a scheme are not
    known without a grid, and then the result is NaN.
    """
    if isinstance(way, Scheme) and grid is None:
        return math.nan
    rows, originals = _rows(array), _rows(original)
    slacks = None if slack is None else slack.reshape(rows.shape)
    beyond = 0
    for piece in _pieces(rows):
        numbers, true = rows[piece], originals[piece]
        if grid is not None and isinstance(way, Scheme):
            off = np.float32(0) if slacks is None else slacks[piece]
            allowed = _half_steps(numbers, true, way, grid, piece, off)
        else:
            allowed = _half_units(np.maximum(np.abs(numbers), np.abs(true)), way)
        if relative:
            size = np.einsum("ij,ij->i", true, true) / true.shape[-1]
            allowed += relative * np.sqrt(size)[:, None]
        if slacks is not None:
            allowed += slacks[piece]
        beyond += int(np.count_nonzero(~(np.abs(numbers - true) <= allowed)))
    return beyond / array.size


def step_power(original: mx.array, scheme: Scheme, grid: Grid) -> tuple[float, float]:
    """The mean square of the grid's steps, and of those that the range of each group asks for."""
    groups = _rows(original).reshape(-1, scheme.group_size)
    asked = (groups.max(-1) - groups.min(-1)) / (2**scheme.bits - 1)
    steps = np.array(grid.scales.astype(mx.float32))
    return float(np.square(steps, dtype=np.float64).mean()), float(
        np.square(asked, dtype=np.float64).mean()
    )


def _half_steps(
    numbers: np.ndarray, true: np.ndarray, scheme: Scheme, grid: Grid, piece: slice, off: Any
) -> np.ndarray:
    """`off`: how far each number may have been from the true one before it was quantised, and so
    outside the grid."""
    scales, start = (_rows(each)[piece][..., None] for each in (grid.scales, grid.biases))
    size = true.shape
    off = np.broadcast_to(off, size)
    true, numbers, off = (each.reshape(*scales.shape[:2], -1) for each in (true, numbers, off))
    end = start + scales * (2**scheme.bits - 1)
    step = np.abs(scales)
    allowed = np.abs(numbers - start)
    allowed += np.abs(true)
    allowed += np.abs(start)
    allowed *= float(mx.finfo(grid.scales.dtype).eps) / 2
    allowed += step / 2
    outside = (true - off < np.minimum(start, end)) | (true + off > np.maximum(start, end))
    allowed += outside * (step / 2)
    return allowed.reshape(size)


def _half_units(numbers: np.ndarray, way: Way) -> np.ndarray:
    """Half a unit in the last place of each number; 0 where the number is 0."""
    assert not isinstance(way, Scheme)
    _, exponents = np.frexp(numbers)
    unit = np.ldexp(np.float32(float(mx.finfo(way).eps) / 2), exponents - 1)
    return np.where(numbers == 0, np.float32(0), unit)


def _rows(array: mx.array) -> np.ndarray:
    numbers = np.array(array if array.dtype == mx.float32 else array.astype(mx.float32), copy=None)
    return numbers.reshape(-1, array.shape[-1])


def _pieces(rows: np.ndarray) -> Iterator[slice]:
    at_once = max(1, NUMBERS_AT_ONCE // max(1, rows.shape[-1]))
    return (slice(start, start + at_once) for start in range(0, len(rows), at_once))
