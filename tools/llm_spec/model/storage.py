"""How coarsely a model stores its numbers, and another model stored as coarsely."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from llm_spec.model.quantisation import Scheme, round_trip

Way = Scheme | mx.Dtype
Storage = Mapping[str, Way]
Arrays = dict[str, mx.array]


@dataclass(frozen=True)
class Grid:
    """The numbers that an affine quantised array can hold: (…, rows, groups) each, as stored."""

    scales: mx.array
    biases: mx.array


def storage_of(model: nn.Module) -> dict[str, Way]:
    """How each array of a model is stored, by its path: a scheme where quantised, else its dtype.

    `model` is one as loaded, not yet unpacked. Scales and biases belong to their weight.
    """
    quantised = {path: module for path, module in model.named_modules() if "scales" in module}
    storage: dict[str, Way] = {
        f"{path}.weight": Scheme(
            f"{module.bits} bits", module.bits, module.group_size, getattr(module, "mode", "affine")
        )
        for path, module in quantised.items()
    }
    for path, array in tree_flatten(model.parameters()):
        if path.rpartition(".")[0] not in quantised and mx.issubdtype(array.dtype, mx.floating):
            storage[path] = array.dtype
    return storage


def grids_of(model: nn.Module) -> dict[str, Grid]:
    """The grid of each affine quantised array, by its path; `model` as in `storage_of`."""
    return {
        f"{path}.weight": Grid(module.scales, module.biases)
        for path, module in model.named_modules()
        if "scales" in module and "biases" in module
    }


def usual(storage: Storage) -> Way:
    """The way in which most arrays are stored; of quantised ones if there are any.

    Raises ValueError for a model that stores no array.
    """
    ways = Counter(storage.values())
    schemes = [way for way in ways if isinstance(way, Scheme)]
    return max(schemes or ways, key=lambda way: ways[way])


def stored_like(
    arrays: Mapping[str, mx.array], others: Mapping[str, mx.array], storage: Storage
) -> Arrays:
    """`arrays`, each rounded as coarsely as `storage` keeps that of `others` at the same path.

    All are float32. An array that `others` hold unchanged was not rounded on its way there, and is
    given back itself. Arrays without a partner are stored in the usual way.
    """
    default = usual(storage)
    keys = map(mx.random.key, count())
    rounded: Arrays = {}
    for (path, array), key in zip(arrays.items(), keys):
        same = path in others and bool(mx.array_equal(array, others[path]))
        floating = mx.issubdtype(array.dtype, mx.floating)
        keep = same or not floating
        rounded[path] = array if keep else _rounded(array, storage.get(path, default), key)
    return rounded


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


def _rounded(array: mx.array, way: Way, key: mx.array) -> mx.array:
    """Round as storage does. A number that is in a floating format already, and yet is another in
    the subject, may have been computed in another order: such an array moves by a random part of
    half a unit in the last place."""
    if isinstance(way, Scheme):
        fits = array.ndim > 1 and array.shape[-1] % way.group_size == 0
        if not fits:
            return array
        return round_trip(array.reshape(-1, array.shape[-1]), way).reshape(array.shape)
    cast = array.astype(way).astype(array.dtype)
    if not bool(mx.array_equal(cast, array)):
        return cast
    return array + _unit(array, way) / 2 * mx.random.uniform(-1, 1, array.shape, key=key)


def _unit(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """The unit in the last place of each number; 0 where the number is 0."""
    return mx.finfo(dtype).eps * 2 ** mx.floor(mx.log2(mx.abs(array)))
