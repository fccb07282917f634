"""Whether the parts of a trained model's layers stand where they were trained: gate and up
projections, square matrices as they are or transposed, layers in their order.

A model with one pair exchanged still predicts ordinary text far better than letter pairs do. Signs
that cost one pass say which parts look exchanged. Those are exchanged back, one by one, and a text
must then cost less: what was trained together predicts best together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from llm_spec.model.dry_run import Calls
from llm_spec.observe.hooks import watched
from llm_spec.observe.modules import Walk, walk
from llm_spec.observe.recorder import layers_of
from llm_spec.quality.rotary import matrix

# Correlations of unrelated profiles of n numbers have a standard deviation of 1/√n.
LEAST_DEVIATIONS = 5
FEWEST = 4  # layers whose order can be told
LEAST_GAIN = 1e-6  # of a way in correlations; less is rounding
GATED = ("gate_proj", "up_proj")


class Exchange(NamedTuple):
    """Parts of the layer `layer` and perhaps of later ones that look exchanged: `what` they are,
    how strong the `sign` of it is, and how to exchange them for a while."""

    layer: int
    what: str
    sign: float
    exchanged: Callable[[], AbstractContextManager[None]]


def gates_that_look_exchanged(model: nn.Module, rows: mx.array) -> list[Exchange] | None:
    """Layers whose gate and up projections look exchanged on `rows` of token ids, (texts, tokens);
    None where no layer has both.

    A gate is shut for most tokens and what it lets through is centred, so the mean of a gate's
    outputs is further from 0, in their standard deviations, than the mean of the others.
    """
    pairs = [
        (index, module, *(module[name] for name in GATED))
        for index, layer in enumerate(layers_of(model))
        for module in walk(layer).modules.values()
        if all(isinstance(module.get(name), nn.Module) for name in GATED)
    ]
    pairs = [pair for pair in pairs if _shapes(pair[2]) == _shapes(pair[3])]
    if not pairs:
        return None
    means = _Means({id(each) for pair in pairs for each in pair[2:]})
    with watched(model, None, means):
        model(rows)  # its logits are not asked for, so its head is not computed
        mx.eval(means.found)
    found = []
    for index, module, gate, up in pairs:
        of_gate, of_up = (float(means.found.get(id(each), 0.0)) for each in (gate, up))
        if abs(of_up) > abs(of_gate):
            undo = _with_gates_exchanged(module)
            found.append(Exchange(index, f"layer {index}", abs(of_up) - abs(of_gate), undo))
    return found


def squares_that_look_transposed(model: nn.Module) -> list[Exchange] | None:
    """Square matrices that look transposed; None where there is none beside other matrices.

    Columns of matrices that read the residual stream, and rows of those that write to it, have
    sizes that follow one another. The square matrices of one name read or write in all layers, so
    the same side of each follows the others of its layer.
    """
    found: dict[str, list[tuple[int, Walk, float, float]]] = {}
    for index, layer in enumerate(layers_of(model)):
        walked = walk(layer)
        matrices = {path: m for path, m in walked.modules.items() if _is_matrix(m)}
        others = [m for m in matrices.values() if _shape(m)[0] != _shape(m)[1]]
        for path, module in matrices.items():
            outputs, inputs = _shape(module)
            beside = [_sizes([m for m in others if _shape(m)[side] == inputs], 1 - side)
                      for side in (0, 1)]  # fmt: skip
            if outputs == inputs and any(len(each) for each in beside):
                rows, columns = (_likeness(_sizes([module], 1 - side), beside) for side in (0, 1))
                found.setdefault(path, []).append((index, walked, rows, columns))
    looks = []
    for path, layers in found.items():
        reading = np.mean([columns > rows for _, _, rows, columns in layers])
        for index, walked, rows, columns in layers:
            odd = columns > rows if reading < 0.5 else rows > columns
            least = LEAST_DEVIATIONS / _shape(walked.modules[path])[0] ** 0.5
            if odd and max(rows, columns) > least:
                what, undo = f"{path} of layer {index}", _transposed(walked, path)
                looks.append(Exchange(index, what, abs(rows - columns), undo))
    return looks if found else None


def layers_that_look_exchanged(model: nn.Module) -> list[Exchange] | None:
    """Layers that look exchanged; None where too few are made alike.

    A weight vector, such as a norm's, changes little from a layer to the next. Of those that all
    layers have, the one that tells their order best is the one of which the fewest exchanges make
    the way through all layers shorter.
    """
    layers = layers_of(model)
    weights = [walk(layer).parameters for layer in layers]
    shapes = [{path: array.shape for path, array in each.items()} for each in weights]
    if len(layers) < FEWEST or any(each != shapes[0] for each in shapes):
        return None
    told = []
    for path in (path for path, shape in shapes[0].items() if len(shape) == 1):
        vectors = np.stack([np.array(each[path].astype(mx.float32)) for each in weights])
        if vectors.std(axis=1).all():
            told.append(_shortening(1 - np.corrcoef(vectors)))
    if not told:
        return None
    return [
        Exchange(i, f"layers {i} and {j}", gain, _with_weights_exchanged(layers[i], layers[j]))
        for i, j, gain in min(told, key=len)
    ]


class _Means(Calls):
    """Keeps the mean of what some modules give, in its standard deviations."""

    def __init__(self, wanted: set[int]) -> None:
        super().__init__()
        self._wanted = wanted
        self.found: dict[int, mx.array] = {}

    def left(self, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """Look at what one call gives."""
        if id(module) in self._wanted:
            values = output.astype(mx.float32)
            self.found[id(module)] = values.mean() / (values.var() ** 0.5 + 1e-30)


def _with_gates_exchanged(module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def exchanged() -> Iterator[None]:
        gate, up = (module[name] for name in GATED)
        module[GATED[0]], module[GATED[1]] = up, gate
        try:
            yield
        finally:
            module[GATED[0]], module[GATED[1]] = gate, up

    return exchanged


def _transposed(walked: Walk, path: str) -> Callable[[], AbstractContextManager[None]]:
    owner, _, name = path.rpartition(".")
    module, before = walked.modules[owner], walked.modules[path]

    @contextmanager
    def exchanged() -> Iterator[None]:
        turned = nn.Linear(1, 1)
        turned.weight = matrix(before).T.astype(before.get("scales", before["weight"]).dtype)
        turned.bias = before.get("bias", mx.zeros(1, turned.weight.dtype))
        module[name] = turned
        try:
            yield
        finally:
            module[name] = before

    return exchanged


def _with_weights_exchanged(
    first: nn.Module, second: nn.Module
) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def exchanged() -> Iterator[None]:
        one, other = walk(first), walk(second)
        arrays = dict(one.parameters), dict(other.parameters)
        try:
            _set(one, arrays[1])
            _set(other, arrays[0])
            yield
        finally:
            _set(one, arrays[0])
            _set(other, arrays[1])

    return exchanged


def _set(walked: Walk, arrays: dict[str, mx.array]) -> None:
    for path, array in arrays.items():
        owner, _, name = path.rpartition(".")
        walked.modules[owner][name] = array


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: array.shape for name, array in walk(module).parameters.items()}


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.QuantizedLinear)


def _shape(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear module."""
    outputs, inputs = module["weight"].shape
    return outputs, inputs * 32 // module.bits if "scales" in module else inputs


def _likeness(sizes: np.ndarray, others: Sequence[np.ndarray]) -> float:
    return max(_correlation(sizes, each) for each in others if len(each))


def _sizes(modules: Sequence[Any], axis: int) -> np.ndarray:
    """The logarithms of the squares of all rows or columns, (rows or columns,); empty for none."""
    if not modules:
        return np.zeros(0)
    squares = [mx.square(matrix(module)).sum(axis) for module in modules]
    return np.log(np.array(sum(squares[1:], squares[0])) + 1e-30)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1])) if one.std() and other.std() else 0.0


def _shortening(apart: np.ndarray) -> list[tuple[int, int, float]]:
    """Exchanges of two layers that make the way through all of them shorter, one after the other,
    and by how much. `apart` is (layers, layers)."""
    order, found = np.arange(len(apart)), []
    pairs = list(combinations(range(len(apart)), 2))
    for _ in order:
        gains = [_gain(apart, order, *pair) for pair in pairs]
        if max(gains) <= LEAST_GAIN:
            break
        i, j = pairs[int(np.argmax(gains))]
        order[[i, j]] = order[[j, i]]
        found.append((i, j, max(gains)))
    return found


def _gain(apart: np.ndarray, order: np.ndarray, i: int, j: int) -> float:
    """By how much the way is shorter with the layers at `i` and `j` exchanged."""
    turned = order.copy()
    turned[[i, j]] = turned[[j, i]]
    steps = [k for k in {i - 1, i, j - 1, j} if 0 <= k < len(order) - 1]
    ways = (sum(apart[way[k], way[k + 1]] for k in steps) for way in (order, turned))
    return float(next(ways) - next(ways))
