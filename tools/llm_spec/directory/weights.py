"""What the weight files hold, read off their headers, and whether there is room for it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from llm_spec.directory.errors import BadModel, megabytes, read_json
from llm_spec.directory.files import Files
from llm_spec.model.safetensors import Tensor, read_header
from llm_spec.text.untrusted import quoted

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FLOATS = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}
MOST_SHARDS = 2_000


def check(
    found: Files, config: Mapping[str, Any], *, free: int | None, unpacked: bool
) -> dict[str, Tensor]:
    """All tensors of the weight files by name; no weight is read.

    Raises `BadModel`: no weights or only pickled ones, a shard missing, a header that is not what
    the format allows, a tensor twice or in no file, or more of them than there is room for.
    """
    if not found.weights:
        raise BadModel(_no_weights(found))
    free = psutil.virtual_memory().available if free is None else free
    index = _read_index(found, free)
    _all_shards(found, index)
    tensors: dict[str, Tensor] = {}
    for name in found.weights:
        try:
            header = read_header(found.root / name)
        except (OSError, ValueError) as error:
            text = str(error).removeprefix(f"{name}: ")
            raise BadModel(f"{name} is damaged: {text}; fetch it anew.") from error
        if twice := tensors.keys() & header.tensors.keys():
            raise BadModel(f"{name} repeats the tensor {quoted(min(twice))} of another file.")
        tensors |= header.tensors
    if lost := sorted(index.keys() - tensors.keys()):
        where = quoted(index[lost[0]])
        raise BadModel(f"{INDEX} puts the tensor {quoted(lost[0])} in {where}, which lacks it.")
    _check_room(found, tensors, config, free, unpacked)
    return tensors


def _no_weights(found: Files) -> str:
    pickles = [name for name in found.others if name.endswith(PICKLES)]
    elsewhere = [name for name in found.others if name.endswith((".safetensors", ".gguf", ".npz"))]
    if elsewhere:
        return (
            f"The weights are in {quoted(elsewhere[0])}, but mlx-lm reads model*.safetensors: "
            "convert them."
        )
    if pickles:
        return (
            f"The weights are pickled, in {quoted(pickles[0])}, and unpickling can run code: "
            "convert them to model.safetensors."
        )
    return (
        f"{found.root.name} holds no model*.safetensors, which mlx-lm reads: fetch or convert them."
    )


def _read_index(found: Files, free: int) -> dict[str, str]:
    """Tensor -> file, as the index says; empty without an index."""
    if INDEX not in found.small:
        return {}
    index = read_json(found.root / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
        raise BadModel(f"{INDEX} should map each tensor to a file (weight_map), but does not.")
    metadata = index.get("metadata")
    declared = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(declared, int | float) and declared > free:
        raise BadModel(
            f"{INDEX} announces {megabytes(declared)} of weights, but {_too_little(free)}"
        )
    return shards


def _all_shards(found: Files, index: Mapping[str, str]) -> None:
    numbered = [match for name in found.weights if (match := SHARD.fullmatch(name))]
    wanted = set(index.values())
    for match in numbered[:1]:
        count = int(match[2])
        if count > MOST_SHARDS:
            raise BadModel(f"{match[0]} speaks of {count:,} files, which no model has.")
        wanted |= {f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)}
    if missing := sorted(wanted - found.weights.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadModel(
            f"{quoted(missing[0])}{more} of {len(wanted)} files of weights is missing: fetch it."
        )


def _check_room(
    found: Files,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    free: int,
    unpacked: bool,
) -> None:
    stored = sum(tensor.bytes for tensor in tensors.values())
    needed = stored + (_unpacked_bytes(tensors, config) if unpacked else 0)
    if needed > free:
        how = " unpacked to float32" if unpacked else ""
        raise BadModel(
            f"{next(iter(found.weights))} (with any others) holds {megabytes(stored)} of weights, "
            f"which take {megabytes(needed)}{how}, but {_too_little(free)}"
        )


def _too_little(free: int) -> str:
    return f"{megabytes(free)} of memory are free: choose a smaller model or a larger machine."


def _unpacked_bytes(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> int:
    """What unpacking to float32 adds: nothing to what is float32 already."""
    packing = config.get("quantization") or {}
    default = packing.get("bits", 4)

    def weights() -> Iterable[int]:
        for name, tensor in tensors.items():
            module = name.rpartition(".")[0]
            if tensor.dtype == "U32" and f"{module}.scales" in tensors:
                own = packing.get(module)
                bits = own.get("bits", default) if isinstance(own, dict) else default
                yield 4 * (8 * tensor.bytes // bits)
            elif tensor.dtype in FLOATS - {"F32", "F64"} and not name.endswith(
                (".scales", ".biases")
            ):
                yield 4 * (tensor.bytes // (1 if tensor.dtype.startswith("F8") else 2))

    return sum(weights())
