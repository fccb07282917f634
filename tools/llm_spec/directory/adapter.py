"""Say whether an adapter (LoRA, DoRA) fits its base, before it is trusted or loaded.

mlx-lm's format: adapter_config.json and adapters.safetensors, as `mlx_lm.lora` writes them.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_spec.directory import files
from llm_spec.directory.errors import BadModel, read_json
from llm_spec.directory.room import FLOATS
from llm_spec.model.safetensors import read_header
from llm_spec.processes.child import Child, Stopped
from llm_spec.text.untrusted import quoted

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
KINDS = ("lora", "dora", "full")
PEFT = ("adapter_model.safetensors", "adapter_model.bin")
MOST_LAYERS, HIGHEST_RANK = 2_000, 65_536
SECONDS = 180.0  # for mlx-lm to be imported and the base declared with the adapter


def inspect_adapter(source: Path, base: Path, into: Path) -> Path:
    """Check the adapter directory `source` and make a view of it in the empty directory `into`.

    `base` is the view of its base. Nothing in `source` is executed, and the time is bounded.
    Returns `into`. Raises `BadModel`, one sentence that names file and cause, where mlx-lm could
    not put this adapter on this base.
    """
    root, names = files.listed(source)
    content = _read_config(root, names)
    _check_weights(root)
    shutil.copyfile(root / CONFIG, into / CONFIG)
    (into / WEIGHTS).symlink_to(root / WEIGHTS)
    if content.get("fine_tune_type", KINDS[0]) != "full":
        _check_parameters(content)
    child = Child("llm_spec.directory.trial_adapter", str(base), str(into))
    try:
        problem = child.receive(SECONDS)["problem"]
    except Stopped as end:
        raise BadModel(f"Trying {CONFIG} and {WEIGHTS} {end}, and was stopped.") from None
    finally:
        child.close()
    if problem:
        raise BadModel(problem)
    return into


def _read_config(root: Path, names: list[str]) -> Mapping[str, Any]:
    content: Any = {}
    if CONFIG in names:
        files.small_file(root, CONFIG)
        content = read_json(root / CONFIG)
    if any(name in names for name in PEFT) or (
        isinstance(content, dict) and "peft_type" in content
    ):
        raise BadModel(
            "it holds an adapter of PEFT, which mlx-lm cannot load: merge it into its base "
            "with PEFT (merge_and_unload), convert that, and check it by --model alone."
        )
    checkpoints = sorted(name for name in names if name.endswith(f"_{WEIGHTS}"))
    if WEIGHTS not in names and checkpoints:
        raise BadModel(
            f"it holds checkpoints and no {WEIGHTS}, which mlx-lm loads: copy one, such as "
            f"{quoted(checkpoints[-1])}, to that name."
        )
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise BadModel(
                f"it holds no {name}, so it is no adapter of mlx-lm: give the directory that "
                "mlx_lm.lora wrote."
            )
    if not isinstance(content, dict):
        raise BadModel(f"{CONFIG} should hold an object, but holds {quoted(content)}.")
    kind = content.get("fine_tune_type", KINDS[0])
    if kind not in KINDS:
        raise BadModel(
            f"{CONFIG} gives fine_tune_type as {quoted(kind)}, but mlx-lm knows {', '.join(KINDS)}."
        )
    return content


def _check_weights(root: Path) -> None:
    files.opened(root, WEIGHTS)
    try:
        tensors = read_header(root / WEIGHTS).tensors
    except (OSError, ValueError) as error:
        text = str(error).removeprefix(f"{WEIGHTS}: ")
        raise BadModel(f"{WEIGHTS} is damaged: {text}; fetch it again.") from error
    if not tensors:
        raise BadModel(f"{WEIGHTS} holds no tensor, so there is nothing to adapt with.")
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise BadModel(
                f"{WEIGHTS} gives {quoted(name)} as {tensor.dtype}, but an adapter computes with "
                "floating-point numbers."
            )


def _check_parameters(content: Mapping[str, Any]) -> None:
    """What mlx-lm makes layers of."""
    _check_number("num_layers", content.get("num_layers"), -1, MOST_LAYERS, whole=True)
    parameters = content.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise BadModel(
            f"{CONFIG} should hold lora_parameters as an object, but holds {quoted(parameters)}."
        )
    _check_number("rank", parameters.get("rank"), 1, HIGHEST_RANK, whole=True)
    _check_number("scale", parameters.get("scale"), -1e6, 1e6)
    _check_number("dropout", parameters.get("dropout"), 0, 0.999)
    keys = parameters.get("keys")
    if keys is not None and not (
        isinstance(keys, list) and keys and all(isinstance(key, str) for key in keys)
    ):
        raise BadModel(f"{CONFIG} should name target modules (keys), but gives {quoted(keys)}.")


def _check_number(name: str, value: Any, least: float, most: float, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not math.isfinite(value) or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        raise BadModel(
            f"{CONFIG} should give {name} as {what} from {least:,} to {most:,}, but gives "
            f"{quoted(value)}."
        )
