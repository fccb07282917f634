"""What config.json says, held to what a model can be."""

import difflib
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llm_spec.directory import generation, packing
from llm_spec.directory.errors import BadModel, read_json
from llm_spec.directory.files import Files
from llm_spec.model.config import text_config
from llm_spec.text.untrusted import quoted

# What each size may be at most, by a word in its name: far above any published model, and low
# enough that declaring one costs no more than seconds.
MOST = {
    r"(num|n)_(hidden_)?layers?": 2_000,
    "vocab_size": 10_000_000,
    r"(hidden|intermediate|ffn|moe_intermediate)_(size|dim)|head_dim|d_model": 1_000_000,
    r"(num|n)_(attention_heads|key_value_heads|heads?|kv_heads)": 100_000,
    r"(num|n)_(local_|routed_)?experts": 100_000,
    "max_position_embeddings": 1_000_000_000,
}
NUMBERS = re.compile(r".*(_eps|epsilon|theta|_factor|multiplier|softcapping)")
MAY_BE_ZERO = re.compile(r".*experts|.*kv_heads|.*key_value_heads|.*moe.*")


def read(found: Files, *, to_load: bool = True) -> dict[str, Any]:
    """Parse config.json and check what can be checked without building the model. Only a model that
    is `to_load` has to be of a type that mlx-lm has, and not to ask for code of its own.

    Raises `BadModel`: not JSON, code that wants to be run, an unknown model type, or a size that
    no model has.
    """
    content = read_json(found.root / "config.json")
    if not isinstance(content, dict):
        raise BadModel(f"config.json should hold an object, but holds {quoted(content)}.")
    if to_load:
        _refuse_code(found, content)
        _check_type(content)
    for key, value in _sizes(content):
        _check_size(key, value)
        if isinstance(value, str) and NUMBERS.fullmatch(key):
            raise BadModel(f"config.json: {key} should be a number, but is {quoted(value)}.")
        if isinstance(value, float) and not math.isfinite(value) and NUMBERS.fullmatch(key):
            raise BadModel(f"config.json: {key} should be a finite number, but is {value}.")
    packing.check(content)
    generation.check_ends("config.json", content)
    return content


def _refuse_code(found: Files, content: Mapping[str, Any]) -> None:
    """No code of a model is run, so a model that asks for it would not be the one it means."""
    if (code := content.get("model_file")) is not None:
        raise BadModel(
            f"config.json wants to run {quoted(code)} (model_file), and no code of a model is "
            "run here."
        )
    settings: dict[str, Any] = {"config.json": content}
    for name in ("tokenizer_config.json", "processor_config.json"):
        if name in found.small:
            settings[name] = read_json(found.root / name)
    for name, setting in settings.items():
        if not isinstance(setting, dict):
            raise BadModel(f"{name} should hold an object, but holds {quoted(setting)}.")
        for reference in _references(setting.get("auto_map")):
            # What is not there cannot be run: mlx-lm has a model of its own, and does not ask.
            module = f"{reference.rpartition('--')[2].partition('.')[0]}.py"
            if module in found.others:
                raise BadModel(
                    f"{name} wants to run {quoted(module)} (auto_map), and no code of a model "
                    f"is run here: remove {quoted(module)} to check the rest."
                )


def _references(auto_map: Any) -> Iterator[str]:
    """Every class that `auto_map` names, however it is nested."""
    if isinstance(auto_map, str):
        yield auto_map
    elif isinstance(auto_map, dict):
        yield from _references(list(auto_map.values()))
    elif isinstance(auto_map, list):
        for each in auto_map:
            yield from _references(each)


def _check_type(content: Mapping[str, Any]) -> None:
    from mlx_lm import models, utils  # here: importing it takes seconds

    model_type = content.get("model_type")
    if not isinstance(model_type, str) or not re.fullmatch(r"[\w.-]{1,100}", model_type):
        raise BadModel(f"config.json should name its model_type, but gives {quoted(model_type)}.")
    shipped = {info.name for info in pkgutil.iter_modules(models.__path__)}
    known = shipped | set(utils.MODEL_REMAPPING)
    if model_type not in known:
        near = difflib.get_close_matches(model_type, known, n=3)
        hint = f" (near: {', '.join(near)})" if near else ""
        raise BadModel(
            f"config.json: model_type {quoted(model_type)} is none that this mlx-lm has{hint}."
        )


def _sizes(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part in (content, text_config(content)):
        yield from part.items()


def _check_size(key: str, value: Any) -> None:
    most = next((most for name, most in MOST.items() if re.fullmatch(name, key)), None)
    if most is None or value is None:  # what a null stands for is for the architecture to say
        return
    if isinstance(value, list) and value:  # one number a layer, in some architectures
        for each in value:
            _check_size(key, each)
        return
    if type(value) is not int:
        raise BadModel(f"config.json: {key} should be a whole number, but is {quoted(value)}.")
    least = 0 if MAY_BE_ZERO.fullmatch(key) else 1
    if not least <= value <= most:
        raise BadModel(
            f"config.json: {key} should lie between {least} and {most:,}, but is {quoted(value)}."
        )


STATED = {
    "layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "hidden_size": ("hidden_size", "d_model", "n_embd", "model_dim"),
    "n_heads": ("num_attention_heads", "n_heads", "n_head"),
    "n_kv_heads": ("num_key_value_heads", "num_attention_heads", "n_heads", "n_head"),
    "head_dim": ("head_dim",),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "vocab_rows": ("vocab_size",),
    "tied": ("tie_word_embeddings",),
}


def stated(content: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a config states, by the names that the specs use."""
    every = {**content, **text_config(content)}
    found = {}
    for name, keys in STATED.items():
        value = next((every[key] for key in keys if every.get(key) is not None), None)
        if isinstance(value, int):
            found[name] = value
    if "head_dim" not in found and {"hidden_size", "n_heads"} <= found.keys():
        found["head_dim"] = found["hidden_size"] // found["n_heads"]
    return found
