"""What a model's weights are: as mathematics (logical) and as bytes (stored).

A quantised matrix is three arrays (packed words, scales and biases) that stand for one matrix of
weights. Counting arrays therefore counts the wrong thing: here they are joined under the weight
that they stand for. Nothing is evaluated: shapes and sizes are read off lazy arrays, so a model of
any size can be counted on any machine.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from llm_spec.model.safetensors import read_header
from llm_spec.observe.modules import Walk, modules_of, walk

PACKED_WITH = ("scales", "biases", "global_scale")
ATTENTION = re.compile(r"attn|attention|mixer|linear_attn|ssm|mamba|conv|recurrent|time_mix")
FEED_FORWARD = re.compile(r"mlp|ffn|feed_forward|ff|moe|expert|router|gate|channel_mix")


class WeightGroup(NamedTuple):
    """One logical weight and the arrays that store it.

    `parameters` counts logical weights; `bytes` counts all of `arrays`; `dtype` is that of the
    stored weight (uint32 when packed), and `bits` what one logical weight costs in storage.
    """

    name: str
    logical_shape: tuple[int, ...]
    stored_shape: tuple[int, ...]
    dtype: str
    parameters: int
    bytes: int
    arrays: tuple[str, ...]

    @property
    def bits(self) -> float:
        """Bits of storage per logical weight, scales and biases included."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0

    @property
    def packed(self) -> bool:
        """Whether several logical weights share one stored word."""
        return self.logical_shape != self.stored_shape


@dataclass(frozen=True)
class Part:
    """The weights of one part of a model, e.g. the attention of layer 3."""

    parameters: int = 0
    bytes: int = 0

    def __add__(self, other: "Part") -> "Part":
        return Part(self.parameters + other.parameters, self.bytes + other.bytes)


@dataclass(frozen=True)
class Parts:
    """A model split by what its weights do; every group is in exactly one place.

    `layers[i]` maps "attention", "ffn", "norm" and "other" to a Part. `head` is None when the
    output reuses the embedding table (tied), because then there is no second matrix to count.
    """

    embedding: Part
    layers: list[dict[str, Part]]
    norm: Part
    head: Part | None
    other: Part

    @property
    def total(self) -> Part:
        """All parts together."""
        inside = (part for layer in self.layers for part in layer.values())
        return _sum([self.embedding, self.norm, self.head or Part(), self.other, *inside])


@dataclass(frozen=True)
class Disk:
    """What the safetensors files of a directory hold, read off their headers.

    `tensors` maps each name to its data bytes; `header_bytes` is all that is not data.
    """

    files: tuple[str, ...]
    tensors: dict[str, int] = field(repr=False)
    header_bytes: int = 0

    @property
    def data_bytes(self) -> int:
        """Bytes of weights."""
        return sum(self.tensors.values())


def groups(model: nn.Module | Walk) -> list[WeightGroup]:
    """Every parameter of `model` once, quantised arrays joined under the weight they stand for. A
    walk over the model is as good as the model.

    Arrays that modules share (tied weights) are listed where they occur first. Arrays that a
    module keeps to itself (names with a leading underscore, such as RoPE frequencies) are no
    parameters: they are not saved with the model.
    """
    modules, arrays = model if isinstance(model, Walk) else walk(model)
    counted: set[int] = set()
    found = []
    for name, array in arrays.items():
        if id(array) in counted:
            continue
        path, _, key = name.rpartition(".")
        module = modules.get(path)
        names = [name]
        if key in PACKED_WITH and f"{path}.weight" in arrays and _packed_bits(module):
            continue
        if key == "weight" and _packed_bits(module):
            names += [f"{path}.{k}" for k in PACKED_WITH if f"{path}.{k}" in arrays]
        stored = [arrays[n] for n in names if id(arrays[n]) not in counted]
        counted.update(id(a) for a in stored)
        shape = logical_shape(module, key, array)
        found.append(
            WeightGroup(
                name=name,
                logical_shape=shape,
                stored_shape=tuple(array.shape),
                dtype=str(array.dtype).removeprefix("mlx.core."),
                parameters=math.prod(shape),
                bytes=sum(a.nbytes for a in stored),
                arrays=tuple(names),
            )
        )
    return found


def logical_shape(module: nn.Module | None, key: str, array: mx.array) -> tuple[int, ...]:
    """The shape of the matrix that `module[key]` stands for.

    MLX packs along the last axis, 32 bits a word (mx.quantize); BitNet's ternary weights are
    packed four to a byte along the first.
    """
    if key == "weight" and (bits := _packed_bits(module)):
        *leading, words = array.shape
        return (*leading, words * 32 // bits)
    rows = getattr(module, "out_features", None)
    if key == "weight" and array.dtype == mx.uint8 and rows:
        return (rows, *array.shape[1:])
    return tuple(array.shape)


def _packed_bits(module: nn.Module | None) -> int:
    """Bits per packed weight of a quantised module; 0 for any other."""
    if module is None or "scales" not in module or "weight" not in module:
        return 0
    return getattr(module, "bits", 0) if module["weight"].dtype == mx.uint32 else 0


def total_parameters(model: nn.Module) -> int:
    """Logical weights of `model`: what "8B" counts. Tied matrices count once."""
    return sum(group.parameters for group in groups(model))


def total_bytes(model: nn.Module) -> int:
    """Bytes of the arrays that hold the weights."""
    return sum(group.bytes for group in groups(model))


def bits_per_weight(model: nn.Module) -> float:
    """Stored bits per logical weight over the whole model."""
    found = groups(model)
    return 8 * sum(g.bytes for g in found) / sum(g.parameters for g in found)


def layer_of(model: nn.Module) -> dict[str, int]:
    """The index of the layer that each weight group lies in, by the group's name.

    Layers are the model's own `layers`; groups outside them are left out.
    """
    order = {id(layer): index for index, layer in enumerate(getattr(model, "layers", []))}
    paths = {path: order[id(m)] for path, m in modules_of(model).items() if id(m) in order}
    found = {}
    for group in groups(model):
        prefix = group.name
        while prefix and prefix not in paths:
            prefix = prefix.rpartition(".")[0]
        if prefix:
            found[group.name] = paths[prefix]
    return found


def by_part(model: nn.Module) -> Parts:
    """Split the weights into embedding, layers, final norm, head and the rest.

    The embedding is the first table outside the layers, the head the matrix outside them that has
    as many rows as the embedding.
    """
    modules = modules_of(model)
    inside = layer_of(model)
    layers: list[dict[str, Part]] = [{} for _ in getattr(model, "layers", [])]
    outside: dict[str, list[Part]] = {"embedding": [], "norm": [], "head": [], "other": []}
    vocabulary = None
    for group in groups(model):
        module = modules.get(group.name.rpartition(".")[0])
        part = Part(group.parameters, group.bytes)
        if group.name in inside:
            layer, kind = layers[inside[group.name]], _kind_in_layer(group.name, module)
            layer[kind] = layer.get(kind, Part()) + part
        elif vocabulary is None and "Embedding" in type(module).__name__:
            vocabulary = group.logical_shape[0]
            outside["embedding"].append(part)
        elif _is_norm(module):
            outside["norm"].append(part)
        elif group.logical_shape[:1] == (vocabulary,):
            outside["head"].append(part)
        else:
            outside["other"].append(part)
    head = _sum(outside["head"]) if outside["head"] else None
    return Parts(
        _sum(outside["embedding"]), layers, _sum(outside["norm"]), head, _sum(outside["other"])
    )


def _is_norm(module: nn.Module | None) -> bool:
    return "norm" in type(module).__name__.lower()


def _kind_in_layer(name: str, module: nn.Module | None) -> str:
    if _is_norm(module):
        return "norm"
    if ATTENTION.search(name):
        return "attention"
    return "ffn" if FEED_FORWARD.search(name) else "other"


def _sum(parts: Iterable[Part]) -> Part:
    return sum(parts, Part())


def bytes_on_disk(directory: Path) -> Disk:
    """Read the headers of a model directory's weights (`model*.safetensors`, as mlx-lm loads).

    Raises FileNotFoundError when there are none, and ValueError, naming the file, when a header
    is not what the format allows or two files hold the same tensor. No weight is read.
    """
    paths = sorted(Path(directory).glob("model*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{Path(directory).name} holds no model*.safetensors")
    tensors: dict[str, int] = {}
    header_bytes = 0
    for path in paths:
        header = read_header(path)
        if twice := tensors.keys() & header.tensors.keys():
            raise ValueError(f"{path.name} repeats the tensor {min(twice)!r} of another file")
        tensors |= {name: tensor.bytes for name, tensor in header.tensors.items()}
        header_bytes += header.header_bytes
    return Disk(tuple(p.name for p in paths), tensors, header_bytes)
