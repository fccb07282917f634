"""What mlx-lm could not load, as a sentence about the files: which one is at fault, and of what."""

import json
import re
from pathlib import Path
from typing import Any

from llm_spec.directory import naming, packing
from llm_spec.directory.errors import reason
from llm_spec.model.config import BadConfig
from llm_spec.text.untrusted import quoted

MODELOPT = "hf_quant_config.json"  # of NVIDIA's conversions
LOW_RANK = re.compile(r"(lora|dora)_|\.base_layer\.")


def explain(error: Exception, view: Path) -> str:
    """What mlx-lm could not do with the model, as a sentence about its files."""
    text, file = str(error), weight_files(view)
    if found := re.match(r"Received (\d+) parameters not in model: \n?(.*)", text, re.DOTALL):
        names, arrays = _names(found[2]), f"(arrays: {found[1]})"
        if adapter := [name for name in names if LOW_RANK.search(name)]:
            return (
                f"{file} holds matrices of an adapter, {_some(adapter)}: it was not fused; fuse it "
                "first (mlx_lm.fuse, or PEFT's merge_and_unload)."
            )
        config = _config(view)
        causes = packing.by_others, naming.other_depth, naming.other_prefix, packing.not_stated
        if said := next(filter(None, (cause(config, names) for cause in causes)), None):
            return f"{file}: {said} {arrays}."
        return f"{file}: the model has no place for {_some(names)} {arrays}."
    if found := re.match(r"Missing (\d+) parameters: \n?(.*)", text, re.DOTALL):
        names = _names(found[2])
        if said := packing.not_stored(_config(view), names):
            return f"{said}."
        if said := naming.fewer_layers(_config(view), names):
            return f"{file}: {said} (arrays: {found[1]})."
        return f"{file} lacks {_some(names)}, which the model needs (arrays: {found[1]})."
    if found := re.match(r"Expected shape (.*) but received shape (.*) for parameter (\S+)", text):
        name = found[3].rstrip(".")
        said = f"{file} gives {quoted(name)} the shape {found[2]}, but config.json makes it"
        how = packing.stated_of(_config(view), name)
        return f"{said} {found[1]}" + (f", packed {how}." if how else ".")
    if found := re.search(r"missing \d+ required positional arguments?: (.*)", text):
        return f"config.json lacks {reason(found[1])}, which its model_type needs."
    if (view / MODELOPT).exists() and not set(packing.STATED) & _config(view).keys():
        why = f"{type(error).__name__}: {reason(text, without=view)}"
        return (
            f"{MODELOPT} says that weights are packed, which mlx-lm takes for what config.json "
            f"says: delete it if they are not ({why})."
        )
    if isinstance(error, KeyError) and text == "'quant_method'":
        return (
            "config.json holds quantization_config without the method of another library, and no "
            "quantization, which mlx-lm reads: give it that name."
        )
    if isinstance(error, AttributeError) and re.search(r"'Model(Args)?'", text):
        return "config.json: model_type is the name of a module that holds no model."
    if "[quantize" in text:
        return f"{file} is packed in a way that MLX does not have: {reason(text, without=view)}."
    if "[load" in text:
        return f"{file} cannot be read by MLX: {reason(text, without=view)}."
    why = f"{type(error).__name__}: {reason(text, without=view)}"
    config = _config(view)
    if key := _setting_at_fault(config):
        return f"config.json: no model can be made with {key} = {quoted(config[key])} ({why})."
    method = packing.method_of(config)
    if method and "quantization" not in config and _can_be_made(config):
        return (
            f"{file} is packed by {quoted(method)} in a way that mlx-lm cannot read ({why}): "
            f"{packing.UNPACKED}."
        )
    return f"config.json: no model can be made from it ({why})."


def weight_files(view: Path) -> str:
    """The file of weights by its name, or all of them by their pattern."""
    names = [path.name for path in view.glob("model*.safetensors")]
    return names[0] if len(names) == 1 else "model*.safetensors"


def _config(view: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((view / "config.json").read_text(encoding="utf-8"))
    return content


def _setting_at_fault(config: dict[str, Any]) -> str | None:
    """The text, list or object without which a model can be made of what remains."""
    if _can_be_made(config):
        return None
    for key, value in config.items():
        is_nested = isinstance(value, (str, list, dict)) and key != "model_type"
        if is_nested and _can_be_made({name: config[name] for name in config if name != key}):
            return key
    return None


def _can_be_made(config: dict[str, Any]) -> bool:
    from llm_spec.model.declare import declare  # here: it imports mlx-lm, which takes seconds

    try:
        declare(config, bits=None)
    except BadConfig:
        return False
    return True


def _names(listed: str) -> list[str]:
    return [name.strip().rstrip(".") for name in re.split(r"[,\n]+", listed) if name.strip(" .")]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(quoted, names[:3])) + more
