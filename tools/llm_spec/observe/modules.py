"""The modules and the parameters of a model by path, each in one walk.

MLX's own walks build a tree for every module that they pass: over 100 layers one takes as long as
Python takes to start, and counting a model takes a dozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

BRANCHES = (dict, list)  # a module is a dict


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by path, `model` itself under "": those of `model.named_modules()`."""
    found = {"": model}
    _add_modules(model, "", found)
    return found


def parameters_of(model: nn.Module) -> dict[str, mx.array]:
    """Every parameter by path, in the order of `tree_flatten(model.parameters())`."""
    found: dict[str, mx.array] = {}
    _add_parameters(model, "", found)
    return found


def _add_modules(tree: Any, prefix: str, found: dict[str, nn.Module]) -> None:
    for key, value in _items(tree):
        if isinstance(value, BRANCHES):
            path = f"{prefix}{key}"
            if isinstance(value, nn.Module):
                found[path] = value
            _add_modules(value, f"{path}.", found)


def _add_parameters(tree: Any, prefix: str, found: dict[str, mx.array]) -> None:
    module = isinstance(tree, nn.Module)  # which keeps what begins with an underscore to itself
    for key, value in _items(tree):
        if module and key[0] == "_":
            continue
        if isinstance(value, mx.array):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, BRANCHES):
            _add_parameters(value, f"{prefix}{key}.", found)


def _items(tree: Any) -> Iterable[tuple[Any, Any]]:
    return enumerate(tree) if isinstance(tree, list) else tree.items()
