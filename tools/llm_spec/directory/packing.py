"""What config.json says of packing: whether it can be meant, and whether the files hold it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_spec.directory.errors import BadModel
from llm_spec.model.config import text_config
from llm_spec.model.safetensors import Tensor
from llm_spec.text.untrusted import quoted

STATED = ("quantization", "quantization_config")
MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")
PLAIN = {"F16", "BF16", "F32", "F64"}
# Parts of tensors' names that GPTQ and AWQ, bitsandbytes, compressed-tensors and FP8 write.
FOREIGN = (
    "qweight", "qzeros", "g_idx", "absmax", "quant_state", "quant_map", "weight_packed",
    "weight_shape", "weight_zero_point", "weight_scale", "input_scale",
)  # fmt: skip
UNPACKED = "take weights that are not packed, and pack them with mlx_lm.convert -q"
MOST_BITS, LARGEST_GROUP = 16, 1024


def check(content: Mapping[str, Any]) -> None:
    """Raises `BadModel` where a packing is stated that no weights can have."""
    for part in (content, text_config(content)):
        for key in STATED:
            if (packing := part.get(key)) is not None:
                _check_block(key, packing)


def _check_block(key: str, packing: Any) -> None:
    if not isinstance(packing, dict):
        raise BadModel(f"config.json: {key} should be an object, but is {quoted(packing)}.")
    _check_values(key, packing)
    if key == "quantization":
        for name in ("bits", "group_size"):
            if name not in packing:
                raise BadModel(f"config.json: quantization lacks {name}, which mlx-lm needs.")
    elif "quant_method" in packing:  # written by another library, whose other keys are its own
        return
    for module, own in overrides(packing):
        if isinstance(own, dict):
            _check_values(f"{key} of {quoted(module)}", own)
        elif own is not None and not isinstance(own, bool):
            raise BadModel(
                f"config.json: {key} of {quoted(module)} should be an object, true or false, but "
                f"is {quoted(own)}."
            )


def overrides(packing: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a quantization block says of single modules."""
    for key, value in packing.items():
        if isinstance(value, dict) or "." in key:
            yield key, value


def _check_values(where: str, packing: Mapping[str, Any]) -> None:
    for name, low, high in (("bits", 1, MOST_BITS), ("group_size", -1, LARGEST_GROUP)):
        if name not in packing:
            continue
        value = packing[name]
        if type(value) is not int or not low <= value <= high or value == 0:
            raise BadModel(
                f"config.json: {where} gives {name} as {quoted(value)}, which no packing has."
            )
    mode = packing.get("mode", MODES[0])
    if not isinstance(mode, str):
        raise BadModel(f"config.json: {where} gives mode as {quoted(mode)}, which no packing has.")


def held(content: Mapping[str, Any], modules: Mapping[str, Any]) -> str | None:
    """What config.json says of packing and the files do not hold, with what mlx-lm does about it.

    `modules` are the packed modules of the loaded model by path, with `bits`, `group_size` and
    `mode`. mlx-lm takes these from the shapes of the weights and scales.
    """
    packing = content.get("quantization")
    if not isinstance(packing, dict):
        return None
    if not modules:
        keys = " and ".join(key for key in STATED if key in content)
        return (
            f"config.json says that weights are packed ({_as_words(packing)}), but none in the "
            f"files is: mlx-lm computes with the floats; take {keys} out of config.json."
        )
    mode = packing.get("mode", MODES[0])
    if mode not in MODES:
        return (
            f"config.json gives {quoted(mode)} as the mode of packing, which MLX does not have "
            f"({', '.join(MODES)}): mlx-lm takes the mode that the scales tell."
        )
    others = [path for path, module in modules.items() if not _fits(packing, path, module)]
    if not others:
        return None
    first = modules[others[0]]
    stored = {"bits": first.bits, "group_size": first.group_size, "mode": first.mode}
    name, own = _stated(packing, others[0])
    every = "all of them" if len(others) == len(modules) else f"{len(others)} of {len(modules)}"
    return (
        f"config.json packs {f'{quoted(name)} ' if name else ''}{_as_words(own)}, but "
        f"{quoted(others[0])} is stored "
        f"{_as_words(stored)} ({every}): mlx-lm takes the latter, which is wrong where weights or "
        "scales are damaged."
    )


def _stated(packing: Mapping[str, Any], path: str) -> tuple[str, Mapping[str, Any]]:
    """What is said of a module, and the name that it is said of; "" where it is said of all."""
    found: tuple[str, Mapping[str, Any]] = "", packing
    for name, stated in overrides(packing):
        # Loading may give a module another prefix than the one that it was saved under.
        if isinstance(stated, dict) and (
            name == path or name.endswith(f".{path}") or path.endswith(f".{name}")
        ):
            found = name, {"mode": MODES[0], **stated}  # MLX inherits none
    return found


def _fits(packing: Mapping[str, Any], path: str, module: Any) -> bool:
    _, own = _stated(packing, path)
    if own.get("mode", MODES[0]) != module.mode:  # a mode that is not stated is the first
        return False
    return all(own.get(key) in (None, getattr(module, key)) for key in ("bits", "group_size"))


def not_stated(content: Mapping[str, Any], unplaced: Sequence[str]) -> str | None:
    """Which modules the files hold packed, where config.json does not say so; `unplaced` are the
    tensors that the model has no place for."""
    modules = [name.removesuffix(".scales") for name in unplaced if name.endswith(".scales")]
    if not modules:
        return None
    stated = content.get("quantization")
    if not isinstance(stated, dict):
        return (
            f"{quoted(modules[0])} is stored packed, but config.json says nothing of packing: give "
            "it quantization, with the bits and group_size of the conversion"
        )
    return (
        f"{quoted(modules[0])} is stored packed, but quantization in config.json leaves it out: "
        "take that entry away"
    )


def by_others(content: Mapping[str, Any], unplaced: Sequence[str]) -> str | None:
    """Whose packing the files hold, of those that MLX has not; `unplaced` are the tensors that the
    model has no place for."""
    theirs = [name for name in unplaced if any(part in name for part in FOREIGN)]
    if not theirs:
        return None
    method = method_of(content)
    by = f"by {quoted(method)}" if method else "by another library"
    return (
        f"{quoted(theirs[0])} is of weights packed {by}, which mlx-lm does not load for this "
        f"model: {UNPACKED}"
    )


def method_of(content: Mapping[str, Any]) -> str | None:
    """The other library's method that config.json says weights are packed by."""
    for part in (content, text_config(content)):
        stated = part.get("quantization_config")
        if isinstance(stated, dict) and isinstance(method := stated.get("quant_method"), str):
            return method
    return None


def not_stored(content: Mapping[str, Any], missing: Sequence[str]) -> str | None:
    """Which module config.json says to be packed whose scales are `missing` from the files."""
    for name in missing:
        module, _, leaf = name.rpartition(".")
        if leaf == "scales" and (how := stated_of(content, name)):
            return (
                f"config.json says that {quoted(module)} is packed {how}, but the files hold its "
                "floats: take it out of quantization"
            )
    return None


def stated_of(content: Mapping[str, Any], tensor: str) -> str | None:
    """How quantization in config.json says, for its module alone, that a tensor is packed."""
    packing, module = content.get("quantization"), tensor.rpartition(".")[0]
    if not isinstance(packing, dict) or not isinstance(own := packing.get(module), dict):
        return None
    return _as_words({**packing, "mode": MODES[0], **own})


def _as_words(packing: Mapping[str, Any]) -> str:
    mode = packing.get("mode", MODES[0])
    words = f"at {packing.get('bits')} bits in groups of {packing.get('group_size')}"
    return words if mode == MODES[0] else f"{words} as {mode}"


def _contradicts(packing: Any, other: Mapping[str, Any]) -> str | None:
    """What quantization_config says in MLX's words and quantization says otherwise."""
    if not isinstance(packing, dict) or not isinstance(other.get("bits"), int):
        return None
    one, two = _as_words(packing), _as_words({**packing, **other})
    if one == two:
        return None
    return (
        f"config.json packs weights {one} (quantization) and {two} (quantization_config): mlx-lm "
        "takes the former; take quantization_config out of config.json."
    )


def left_behind(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    """Whether another library's packing is stated of weights that are floats, or packed by MLX."""
    for part in (content, text_config(content)):
        stated = part.get("quantization_config")
        if not isinstance(stated, dict):
            continue
        method = stated.get("quant_method")
        by = f" by {quoted(method)}" if method else ""
        if content.get("quantization") is not None:
            if not method or method in MODES:
                if said := _contradicts(content["quantization"], stated):
                    return said
                continue
            return (
                f"config.json says that weights are packed{by}, and how by MLX: mlx-lm takes the "
                "latter; take quantization_config out of config.json."
            )
        packed = any(tensor.dtype not in PLAIN for tensor in tensors.values())
        if not packed and not any("scale" in name or "absmax" in name for name in tensors):
            return (
                f"config.json says that weights are packed{by}, but none in the files is: take "
                "quantization_config out of config.json."
            )
    return None
