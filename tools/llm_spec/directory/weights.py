"""What the weight files hold, read off their headers, and whether there is room for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_spec.directory import config as config_file
from llm_spec.directory import packing, room, shards
from llm_spec.directory.errors import BadModel
from llm_spec.directory.files import Files, adapter_of, find, says_adapter
from llm_spec.model.safetensors import Tensor, read_header
from llm_spec.numerics.units import show_bytes
from llm_spec.text.untrusted import quoted

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Weights:
    """All tensors of the weight files by name, and `notes`: sentences about files that mlx-lm does
    not look at, or not as they are meant."""

    tensors: dict[str, Tensor]
    notes: list[str]


def check(found: Files, config: Mapping[str, Any], *, free: int | None, unpacked: bool) -> Weights:
    """Read the headers of the weight files; no weight is read.

    Raises `BadModel`: no weights or only pickled ones, a shard missing, a header that is not what
    the format allows, a tensor twice, or more of them than there is room for.
    """
    if not found.weights:
        raise BadModel(_no_weights(found))
    free = _available() if free is None else free
    index, note = shards.read_index(found)
    shards.check_complete(found, index)
    stray = shards.stray(found, index)
    tensors: dict[str, Tensor] = {}
    for name in found.weights:
        try:
            header = read_header(found.root / name)
        except (OSError, ValueError) as error:
            text = str(error).removeprefix(f"{name}: ")
            raise BadModel(f"{name} is damaged: {text}; fetch it again.") from error
        if twice := tensors.keys() & header.tensors.keys():
            raise BadModel(
                f"{stray or name} repeats the tensor {quoted(min(twice))} of another file"
                + (": it is none of the model's files, take it away." if stray else ".")
            )
        tensors |= header.tensors
    _check_room(found, tensors, config, free, unpacked)
    notes = [note, shards.other_build(index, tensors), packing.left_behind(config, tensors)]
    if adapter := adapter_of([*found.small, *found.others]):
        notes.append(
            f"{quoted(adapter)} lies beside the weights, but mlx-lm does not apply it: give an "
            "adapter by --adapter, or take it away if it is fused."
        )
    if stray:
        notes.append(f"{stray} is none of the model's files beside it, but mlx-lm loads it too.")
    return Weights(tensors, [each for each in notes if each])


def _no_weights(found: Files) -> str:
    if adapter := adapter_of(found.others):
        return says_adapter(adapter)
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
    return "it holds no model*.safetensors, which mlx-lm reads: fetch or convert them."


def check_room(
    directories: Sequence[Path], *, free: int | None = None, unpacked: bool = True, runs: int = 1
) -> None:
    """Raise `BadModel` where so many `runs` at once, each holding all models of `directories`, take
    more than `free` bytes of memory (what is available now if None)."""
    models = []
    for directory in directories:
        found = find(directory)
        headers = [read_header(found.root / name).tensors for name in found.weights]
        models.append(
            ({k: v for each in headers for k, v in each.items()}, config_file.read(found))
        )
    free = _available() if free is None else free
    needed = room.of_a_run(models, unpacked).total
    if runs * needed > free:
        each = f"each of {runs} processes" if runs > 1 else "a run"
        raise BadModel(
            f"{each} takes up to {show_bytes(needed)} {_of_what(unpacked)}, but {_too_little(free)}"
        )


def _check_room(
    found: Files,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    free: int,
    unpacked: bool,
) -> None:
    needed = room.of_a_run([(tensors, config)], unpacked)
    if needed.total > free:
        raise BadModel(
            f"{next(iter(found.weights))} (with any others) holds {show_bytes(needed.stored)} of "
            f"weights, and a run takes up to {show_bytes(needed.total)} {_of_what(unpacked)}, but "
            f"{_too_little(free)}"
        )


def _of_what(unpacked: bool) -> str:
    how = " unpacked to float32" if unpacked else ""
    return f"(weights{how}, logits, tokenizer, a second copy)"


def _available() -> int:
    import psutil  # here: a plan does not ask

    return int(psutil.virtual_memory().available)


def _too_little(free: int) -> str:
    return f"{show_bytes(free)} of memory are free: choose a smaller model or a larger machine."
