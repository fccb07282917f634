"""A conversion compared with its source on disk, tensor by tensor: the fate of each.

Files alone are read, and mlx-lm renames what they hold; no other library has to know the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from llm_spec.model.config import BadConfig
from llm_spec.model.declare import PACKING, declare
from llm_spec.model.quantisation import Scheme
from llm_spec.model.rounding import mean_square
from llm_spec.model.storage import Arrays, Grid, Way
from llm_spec.quality.arrays import is_beyond, share_beyond

SAMPLED = 64  # rows, spread over a matrix, that are looked for among the source's
ALIKE = 0.9  # cosine of two rows that are one, rounded: two bits leave 0.9 of it
TINY = float(np.finfo(np.float32).tiny)
FLOATS = (mx.float16, mx.bfloat16)
NEARER = 0.25  # of the mean square of an error: what another tensor of the source must leave of it
MOVED = (
    "missing", "not in the source", "another shape", "transposed", "permuted", "another tensor's",
    "negated",
)  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """The fate of one tensor of the source."""

    name: str
    kind: str
    """One of `MOVED`, or "the same", "rounded", "other numbers"."""
    says: str
    off: float | None = None
    """Root mean square of what it is off by, over its own."""

    @property
    def is_moved(self) -> bool:
        return self.kind in MOVED


@dataclass(frozen=True)
class OnDisk:
    """The tensors of a model directory in float32, under mlx-lm's names, and how each is stored."""

    tensors: Arrays
    ways: dict[str, Way]
    grids: dict[str, Grid]


def read(
    directory: Path, config: Mapping[str, Any], named_as: Mapping[str, Any] | None = None
) -> OnDisk:
    """Read the weight files, lazily; what is packed is unpacked as `config` says.

    mlx-lm's module for `config` renames what they hold, or, where it has none, the module for
    `named_as`: the configuration of what was converted from them.
    """
    held: Arrays = {}
    for file in sorted(directory.glob("model*.safetensors")):
        loaded: Any = mx.load(str(file))
        held |= loaded
    for known in (config, named_as):
        try:
            sanitize: Callable[[Arrays], Arrays] = declare(known or {}, bits=None).sanitize
            held = sanitize(held)
            break
        except AttributeError:  # names need no change
            break
        except (BadConfig, KeyError, ValueError, TypeError):
            continue  # in the end the names are those of the files
    packing: Mapping[str, Any] = next((config[key] for key in PACKING if config.get(key)), {})
    grids = {
        f"{name.removesuffix('.scales')}.weight": Grid(held[name], held[f"{name[:-6]}biases"])
        for name in held
        if name.endswith(".scales") and f"{name[:-6]}biases" in held
    }
    tensors: Arrays = {}
    ways: dict[str, Way] = {}
    for name, array in held.items():
        stem, _, leaf = name.rpartition(".")
        if f"{stem}.scales" not in held or leaf == "bias":
            tensors[name], ways[name] = array.astype(mx.float32), array.dtype
        elif leaf == "weight":
            settings = dict(packing)
            if isinstance(own := packing.get(stem), Mapping):
                settings |= {"mode": "affine", **own}  # a module inherits no mode
            bits, size = settings["bits"], settings["group_size"]
            mode = settings.get("mode", "affine")
            scales, biases = held[f"{stem}.scales"], held.get(f"{stem}.biases")
            if biases is not None:
                scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
            restored = mx.dequantize(array, scales, biases, size, bits, mode)
            tensors[name] = restored.astype(mx.float32)
            ways[name] = Scheme(f"{bits} bits in groups of {size}", bits, size, mode)
    return OnDisk(tensors, ways, grids)


def fates(ours: OnDisk, source: OnDisk) -> list[Fate]:
    """The fate of each tensor of the source, and added tensors; the worst first."""
    found = []
    for name in source.tensors.keys() | ours.tensors.keys():
        if name not in ours.tensors:
            found.append(Fate(name, "missing", "missing"))
        elif name not in source.tensors:
            found.append(Fate(name, "not in the source", "not in the source"))
        else:
            fate = _fate(name, ours, source.tensors[name])
            found.append(_of_another(fate, ours, source) if fate.kind == "other numbers" else fate)
    return sorted(found, key=lambda fate: (not fate.is_moved, -(fate.off or 0), fate.name))


def _fate(name: str, ours: OnDisk, source: mx.array) -> Fate:
    array, way = ours.tensors[name], ours.ways[name]
    if array.shape != source.shape:
        if array.ndim == 2 and array.shape == source.shape[::-1] and _alike(array, source.T):
            return Fate(name, "transposed", f"transposed: {source.shape} became {array.shape}")
        return Fate(name, "another shape", f"another shape: {source.shape} became {array.shape}")
    if bool(mx.array_equal(array, source)):
        return Fate(name, "the same", "the same", 0.0)
    size = mean_square(source)
    off = (mean_square(array, source) / size) ** 0.5 if size else np.inf
    for dtype in FLOATS:
        if bool(mx.array_equal(array, source.astype(dtype).astype(mx.float32))):
            kept = "" if way == dtype else f", and kept as {_called(way)}"
            return Fate(name, "rounded", f"rounded to {_called(dtype)}{kept}", off)
    if not is_beyond(share_beyond(array, source, way, ours.grids.get(name))):
        return Fate(name, "rounded", f"rounded to {_called(way)}", off)
    if array.ndim == 2 and not _alike(array, source):
        if array.shape[0] == array.shape[1] and _alike(array, source.T):
            return Fate(name, "transposed", "transposed", off)
        for what, a, b in (("rows", array, source), ("columns", array.T, source.T)):
            if moved := _moved(a, b):
                says = f"{what} look permuted: {moved[0]} holds what the source has in {moved[1]}"
                return Fate(name, "permuted", says, off)
    return Fate(name, "other numbers", f"other numbers, {100 * off:.2g} % off", off)


def _of_another(fate: Fate, ours: OnDisk, source: OnDisk) -> Fate:
    """What other numbers look like: those of another tensor of the source, or its own negated or
    multiplied."""
    array, own = _sample(ours.tensors[fate.name]), _sample(source.tensors[fate.name])
    if _alike(array, -own):
        return Fate(fate.name, "negated", "negated", fate.off)
    for name, tensor in source.tensors.items():
        if name == fate.name or tensor.shape != ours.tensors[fate.name].shape:
            continue
        other = _sample(tensor)
        near = mean_square(array, other) <= NEARER * mean_square(array, own)
        if near and _alike(array, other):
            says = f"holds what the source has in {name}"
            return Fate(fate.name, "another tensor's", says, fate.off)
    if (size := mean_square(own)) and _alike(array, own):
        times = float((array * own).mean()) / size
        if mean_square(array, times * own) <= NEARER * mean_square(array, own):
            return Fate(fate.name, fate.kind, f"{times:.3g} times the source's numbers", fate.off)
    return fate


def _sample(array: mx.array) -> mx.array:
    """Some rows, spread over a matrix, as many as are looked for among the source's."""
    return array if array.ndim < 2 else array[mx.array(_picked(array))]


def _picked(array: mx.array) -> np.ndarray:
    """The places of those rows."""
    return np.unique(np.linspace(0, len(array) - 1, min(SAMPLED, len(array))).astype(int))


def _alike(array: mx.array, source: mx.array) -> bool:
    product = float((array * source).mean(-1).mean())
    return product >= ALIKE * (mean_square(array) * mean_square(source)) ** 0.5


def _moved(array: mx.array, source: mx.array) -> tuple[int, int] | None:
    """A row and the other row of the source that it holds, where all sampled rows are somewhere
    in the source; None where one is nowhere, or all are at their place."""
    picked = _picked(array)
    cosines = np.array(_normed(array[mx.array(picked)]) @ _normed(source).T)
    places = cosines.argmax(-1)
    if cosines.max(-1).min() < ALIKE:
        return None
    moved = np.flatnonzero(places != picked)
    return (int(picked[moved[0]]), int(places[moved[0]])) if len(moved) else None


def _normed(rows: mx.array) -> mx.array:
    norms = mx.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / mx.maximum(norms, TINY)


def _called(way: Way) -> str:
    return way.name if isinstance(way, Scheme) else str(way).removeprefix("mlx.core.")
