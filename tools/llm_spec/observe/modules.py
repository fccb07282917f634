"""The modules and the parameters of a model by path, in one walk.

MLX's own walks build a tree for every module that they pass: over 100 layers one takes as long as
Python takes to start, and counting a model takes a dozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

BRANCHES = (dict, list)  # a module is a dict


class Walk(NamedTuple):
    """What a model consists of, by path: its `modules`, itself under "", and its `parameters`."""

    modules: dict[str, nn.Module]
    parameters: dict[str, mx.array]


def walk(model: nn.Module) -> Walk:
    """The modules are those of `model.named_modules()`, the parameters those of
    `tree_flatten(model.parameters())` in that order."""
    found = Walk({"": model}, {})
    _add(model, "", found, True)
    return found


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by path, `model` itself under ""."""
    return walk(model).modules


def _add(tree: Any, prefix: str, found: Walk, public: bool) -> None:
    module = isinstance(tree, nn.Module)  # which keeps what begins with an underscore to itself
    for key, value in _items(tree):
        kept = public and not (module and key[0] == "_")
        if isinstance(value, mx.array):
            if kept:
                found.parameters[f"{prefix}{key}"] = value
        elif isinstance(value, BRANCHES):
            path = f"{prefix}{key}"
            if isinstance(value, nn.Module):
                found.modules[path] = value
            _add(value, f"{path}.", found, kept)


def _items(tree: Any) -> Iterable[tuple[Any, Any]]:
    return enumerate(tree) if isinstance(tree, list) else tree.items()
