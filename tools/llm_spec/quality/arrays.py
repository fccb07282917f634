"""A subject's arrays beside its reference's: rounded, scaled per channel, or other arrays.

Three questions, array by array. Is the error as large as rounding makes it? Does it look like
rounding: to the nearest number that storage can hold, or at least without a low-rank part, as an
adapter that was lost or added leaves one? And do arrays that are far apart differ by a factor per
row and per column, as AWQ and its like scale channels against each other?
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan, sqrt
from statistics import median

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.model.quantisation import Scheme
from llm_spec.model.rounding import mean_square, share_beyond_rounding, step_power
from llm_spec.model.storage import Arrays, Grid, Storage, Way
from llm_spec.numerics import tolerances
from llm_spec.quality.reference import A_BIT, HALF_A_BIT, VERDICTS, Figure

TINY = float(np.finfo(np.float64).tiny)
REORDERED = tolerances.reordered(mx.float32, 1)
F_LEAST = 10.0  # factors must lower the power of the error by ten times what as many random do
EXPLAINED = 0.3  # of an array's power may be left: two bits round by half of that
SWEEPS = 8  # between factors of rows and of columns
DIRECTIONS, ITERATIONS = 4, 8  # of the block power iteration


def paired(model: nn.Module, reference: nn.Module) -> tuple[Arrays, Arrays]:
    """The arrays of both by path. Raises ValueError where they cannot be paired."""
    ours, theirs = (dict(tree_flatten(each.parameters())) for each in (model, reference))
    if differ := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(f"only one of them has {differ[0]}")
    for path, array in theirs.items():
        if array.shape != ours[path].shape:
            raise ValueError(f"{path} has shape {ours[path].shape} and {array.shape}")
    return ours, theirs


@dataclass(frozen=True)
class Scaled:
    """An array's original with a factor per row and per column, as the subject's shows them."""

    original: mx.array
    slack: mx.array | None
    """Three standard errors of the factors, as they move each number."""


@dataclass(frozen=True)
class Fit:
    """How one matrix of the subject fits the reference's."""

    beyond: float
    """Share of numbers that rounding to the nearest does not explain; NaN for unknown steps."""
    spectrum: Figure | None
    """The square of the error's largest singular value, over the power of the matrix. None where
    `beyond` is 0, which leaves nothing to ask."""

    @property
    def verdict(self) -> str:
        """Refuted with a low-rank part; inconclusive where the error is just no rounding to the
        nearest, which other ways to quantise also leave."""
        if self.spectrum is None:
            return "verified"
        if self.spectrum.verdict == "verified" and not isnan(self.beyond):
            return "inconclusive"
        return self.spectrum.verdict


def beyond_rounding(
    ours: Arrays, theirs: Arrays, storage: Storage, grids: Mapping[str, Grid]
) -> dict[str, float]:
    """`share_beyond_rounding` of each array, by path, but no less than sums in another order may
    move a number."""
    return {
        path: share_beyond(ours[path], theirs[path], way, grids.get(path))
        for path, way in storage.items()
        if path in ours and path in theirs
    }


def share_beyond(
    array: mx.array, original: mx.array, way: Way, grid: Grid | None, slack: mx.array | None = None
) -> float:
    """`share_beyond_rounding`, where also a sum in another order is no error: neither of a number,
    beside the others of its row, nor of the array as a whole."""
    held = None if slack is None else np.array(slack)
    share = share_beyond_rounding(array, original, way, grid, REORDERED, held)
    least = REORDERED**2 * mean_square(original) if share > 0 else 0.0
    return 0.0 if share > 0 and mean_square(array, original) <= least else share


def is_beyond(share: float) -> bool:
    """Whether rounding to the nearest fails to explain some number, or may do so."""
    return share > 0 or isnan(share)


def is_coarse(original: mx.array, way: Way, grid: Grid | None) -> bool:
    """Whether the steps of a grid are over half a bit coarser than its numbers ask for."""
    if not isinstance(way, Scheme) or grid is None:
        return isinstance(way, Scheme)
    steps, asked = step_power(original, way, grid)
    return not steps <= HALF_A_BIT * asked


def scales_per_channel(
    ours: Arrays, theirs: Arrays, beyond: Mapping[str, float]
) -> dict[str, Scaled]:
    """The arrays that are the reference's with a factor per row and column, by path.

    Empty where none is. Vectors that differ, such as the norms that undo the factors, are taken as
    the subject has them. Whether the factors undo each other only the model's predictions tell.
    """
    suspects = [path for path, share in beyond.items() if is_beyond(share)]
    found = {
        path: scaled
        for path in suspects
        if ours[path].ndim > 1 and (scaled := _factors(ours[path], theirs[path]))
    }
    vectors = {path: Scaled(ours[path], None) for path in suspects if ours[path].ndim == 1}
    return found | vectors if found else {}


def _factors(array: mx.array, original: mx.array) -> Scaled | None:
    """Least squares, rows and columns in turn. None where factors explain little of the error, or
    the array is another one altogether.

    The F statistic compares the power that a factor takes away with the power left per number.
    """
    rows = mx.ones((*original.shape[:-1], 1))
    for _ in range(SWEEPS):
        columns = _ratio(array, rows * original, -2)
        rows = _ratio(array, columns * original, -1)
    scaled = rows * original * columns
    before, after = mean_square(array, original), mean_square(array, scaled)
    fewer = min(original.shape[-2:])
    explained = after <= EXPLAINED * mean_square(array)
    if not (explained and (before - after) * fewer > F_LEAST * after):
        return None
    error = mx.square(array - scaled)
    power = mx.square(scaled)
    share = _over(error.mean(-2, keepdims=True), power.sum(-2, keepdims=True))
    share = share + _over(error.mean(-1, keepdims=True), power.sum(-1, keepdims=True))
    return Scaled(scaled, 3 * mx.sqrt(share) * mx.abs(scaled))


def _ratio(array: mx.array, original: mx.array, axis: int) -> mx.array:
    return _over(
        (array * original).sum(axis, keepdims=True), mx.square(original).sum(axis, keepdims=True), 1
    )


def _over(a: mx.array, b: mx.array, otherwise: float = 0) -> mx.array:
    return mx.where(b > 0, a / mx.where(b > 0, b, 1), otherwise)


def error_power(array: mx.array, original: mx.array, rounded: mx.array) -> Figure:
    """The mean square of what `array` is off by, relative to that of `original`."""
    size = max(mean_square(original), TINY)
    off = mean_square(array, original)
    floor = mean_square(rounded, original) if off else 0.0
    return Figure(off / size, max(floor / size, REORDERED**2))


def fit(
    array: mx.array,
    original: mx.array,
    rounded: mx.array,
    beyond: float,
) -> Fit:
    """Whether the error of a matrix looks like that of rounding; `rounded` is honestly so, and
    `beyond` is the share of numbers that rounding to the nearest does not explain."""
    if not is_beyond(beyond):
        return Fit(beyond, None)
    size = max(float(mx.square(original).sum(-1).sum()), TINY)
    value, floor = (
        largest_singular_value(each - original) ** 2 / size for each in (array, rounded)
    )
    least = REORDERED**2 / min(original.shape[-2:])
    return Fit(beyond, Figure(value, max(floor, least)))


def verdict_on(fits: Mapping[str, Fit], layers: Callable[[], list[Figure]]) -> str:
    """The verdict on all matrices; `layers` gives the figures of hidden states, or ValueError.

    Methods that weigh errors by the inputs, as GPTQ does, also leave large singular values, in
    directions that inputs seldom take: one matrix of SmolLM2 so rounded shows four times the power
    of plain rounding there, and a third of its error in the output. So where hidden states err less
    than rounding to the nearest makes them, in the median over layers, nothing is refuted.
    """
    verdict = min((fit.verdict for fit in fits.values()), key=VERDICTS.index)
    if verdict != "refuted":
        return verdict
    try:
        ratios = [figure.value / max(figure.floor, TINY) for figure in layers()[1:]]
    except ValueError:
        return verdict
    return "inconclusive" if ratios and median(ratios) < 1 else verdict


def rank_one_share(figure: Figure) -> float:
    """The smallest change of rank one that `figure` refutes, as a share of the matrix's norm."""
    return sqrt(max(A_BIT * figure.floor - figure.floor, 0.0))


def largest_singular_value(matrix: mx.array) -> float:
    """Of (…, rows, columns) float32: the largest over all matrices, by block power iteration.

    From below, and within a few per cent of it: so for the error and for what it is held to.
    """
    stack = matrix.reshape(-1, *matrix.shape[-2:])
    block = mx.random.normal((len(stack), stack.shape[-1], DIRECTIONS), key=mx.random.key(0))
    for _ in range(ITERATIONS):
        left = mx.array(np.linalg.qr(np.array(stack @ block))[0])
        block = mx.array(np.linalg.qr(np.array(stack.swapaxes(-1, -2) @ left))[0])
    return float(np.linalg.svd(np.array(stack @ block), compute_uv=False).max(initial=0.0))
