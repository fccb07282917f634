"""Why names of tensors do not fit a model: other layers than config.json says, or a prefix."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_spec.model.config import BadConfig, text_config
from llm_spec.text.untrusted import quoted

LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.")
PACKED = re.compile(r"\.(scales|biases)$")


def other_depth(config: Mapping[str, Any], unplaced: Sequence[str]) -> str | None:
    """That the files hold more layers than config.json says; `unplaced` are all the tensors that
    the model has no place for."""
    layers, stated = _layers(unplaced), text_config(config).get("num_hidden_layers")
    if not layers or type(stated) is not int or min(layers) != stated:
        return None
    return (
        f"the files hold {max(layers) + 1} layers, but config.json says num_hidden_layers {stated}"
    )


def fewer_layers(config: Mapping[str, Any], missing: Sequence[str]) -> str | None:
    """That the files hold fewer layers than config.json says; `missing` are all the tensors that
    the model lacks."""
    layers, stated = _layers(missing), text_config(config).get("num_hidden_layers")
    if not layers or layers != set(range(min(layers), max(layers) + 1)):
        return None
    if type(stated) is not int or max(layers) + 1 != stated or not min(layers):
        return None
    return f"the files hold {min(layers)} layers, but config.json says num_hidden_layers {stated}"


def other_prefix(config: Mapping[str, Any], unplaced: Sequence[str]) -> str | None:
    """With which prefix more or less the model has a place for all `unplaced` tensors."""
    from llm_spec.model.declare import declare  # here: it imports mlx-lm, which takes seconds
    from llm_spec.observe.modules import walk

    try:
        needed = set(walk(declare(config, bits=None)).parameters)
    except BadConfig:
        return None
    kind = quoted(config.get("model_type"))
    names = {PACKED.sub(".weight", name) for name in unplaced}
    first = max(names, key=len)
    for own in needed:
        if first.endswith(f".{own}"):
            prefix = first.removesuffix(own)
            if {name.removeprefix(prefix) for name in names} <= needed:
                return (
                    f"names of tensors begin with {quoted(prefix)}, and {kind} has them without: "
                    "rename them, or give config.json the model_type that they were written for"
                )
        if own.endswith(f".{first}"):
            prefix = own.removesuffix(first)
            if {prefix + name for name in names} <= needed:
                return f"names of tensors lack {quoted(prefix)}, with which {kind} has them"
    return None


def _layers(names: Sequence[str]) -> set[int]:
    """The layers that all of the names are of; none where one is of no layer."""
    found = [LAYER.search(name) for name in names]
    return {int(match[1]) for match in found if match} if all(found) else set()
