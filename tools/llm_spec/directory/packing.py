"""What config.json says of packing: whether it can be meant, and whether the files hold it."""

from collections.abc import Iterator, Mapping
from typing import Any

from llm_spec.directory.errors import BadModel
from llm_spec.text.untrusted import quoted

STATED = ("quantization", "quantization_config")
MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")
MOST_BITS, LARGEST_GROUP = 16, 1024


def check(content: Mapping[str, Any]) -> None:
    """Raises `BadModel` where a packing is stated that no weights can have."""
    nested = content.get("text_config")
    for part in (content, nested if isinstance(nested, dict) else {}):
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
