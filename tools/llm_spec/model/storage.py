"""How coarsely a model stores its numbers, and another model stored as coarsely."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from llm_spec.model.quantisation import Scheme, round_trip

Storage = Mapping[str, Scheme | mx.Dtype]


def storage_of(model: nn.Module) -> dict[str, Scheme | mx.Dtype]:
    """How each array of a model is stored, by its path: a scheme where quantised, else its dtype.

    `model` is one as loaded, not yet unpacked. Scales and biases belong to their weight.
    """
    quantised = {path: module for path, module in model.named_modules() if "scales" in module}
    storage: dict[str, Scheme | mx.Dtype] = {
        f"{path}.weight": Scheme(
            f"{module.bits} bits", module.bits, module.group_size, getattr(module, "mode", "affine")
        )
        for path, module in quantised.items()
    }
    for path, array in tree_flatten(model.parameters()):
        if path.rpartition(".")[0] not in quantised and mx.issubdtype(array.dtype, mx.floating):
            storage[path] = array.dtype
    return storage


def usual(storage: Storage) -> Scheme | mx.Dtype:
    """The way in which most arrays are stored; of quantised ones if there are any.

    Raises ValueError for a model that stores no array.
    """
    ways = Counter(storage.values())
    schemes = [way for way in ways if isinstance(way, Scheme)]
    return max(schemes or ways, key=lambda way: ways[way])


@contextmanager
def stored_like(model: nn.Module, other: nn.Module, storage: Storage) -> Iterator[None]:
    """Round the arrays of `model` as coarsely as `storage` keeps those of `other`, for a while.

    Both models are in float32, and arrays are paired by path. An array that `other` holds unchanged
    was not rounded on its way there, so only float32 rounds it here, as adding in another order
    would. Of a model with other paths, matrices are stored in the usual way.
    """
    others = dict(tree_flatten(other.parameters()))
    default = usual(storage)
    keys = map(mx.random.key, count())
    rounded = {}
    for (path, array), key in zip(tree_flatten(model.parameters()), keys):
        if mx.issubdtype(array.dtype, mx.floating):
            same = path in others and bool(mx.array_equal(array, others[path]))
            way = mx.float32 if same else storage.get(path, default)
            rounded[path] = _rounded(array, way, key)
    with holding(model, rounded):
        yield


@contextmanager
def holding(model: nn.Module, arrays: Mapping[str, mx.array]) -> Iterator[None]:
    """Give `model` other arrays, by path and of the same shapes, for a while. All its arrays are
    evaluated."""
    original = tree_flatten(model.parameters())
    try:
        model.update(tree_unflatten(list(arrays.items())))
        mx.eval(model.parameters())
        yield
    finally:
        model.update(tree_unflatten(original))


def mean_square_rounding(array: mx.array, way: Scheme | mx.Dtype) -> float:
    """What storing a float32 array in this way moves its numbers by: the mean of the square.

    Rounding to a unit in the last place is off by anything up to half of it, so by 1/12 of its
    square in the mean.
    """
    if isinstance(way, Scheme):
        return mean_square(_rounded(array, way) - array)
    return mean_square(_unit(array, way)) / 12


def mean_square(array: mx.array) -> float:
    """The mean of the square, summed in pieces so that float32 suffices."""
    return float(mx.square(array).mean(-1).mean()) if array.size else 0.0


def _rounded(array: mx.array, way: Scheme | mx.Dtype, key: mx.array | None = None) -> mx.array:
    """Round once more: a number that is in this dtype already, and yet is another in the subject,
    may have been computed in another order. So each moves by a random part of half a unit in its
    last place."""
    if isinstance(way, Scheme):
        fits = array.ndim > 1 and array.shape[-1] % way.group_size == 0
        return round_trip(array, way) if fits else array
    return array + _unit(array, way) / 2 * mx.random.uniform(-1, 1, array.shape, key=key)


def _unit(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """The unit in the last place of each number; 0 where the number is 0."""
    return mx.finfo(dtype).eps * 2 ** mx.floor(mx.log2(mx.abs(array)))
