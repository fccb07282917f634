"""What a declared model's weights would be once packed, without packing each of its modules.

Modules of one kind, shape and type are packed alike, so one of each is packed: a model of 60 layers
has a dozen kinds. Which modules are packed, and how, is what mlx-lm's own conversion decides.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn
from mlx_lm import utils as mlx_lm_utils

from llm_spec.model.accounting import WeightGroup, groups
from llm_spec.model.config import BadConfig
from llm_spec.model.declare import ERRORS
from llm_spec.observe.hooks import patched
from llm_spec.observe.modules import modules_of

Choice = Callable[[str, nn.Module], bool | dict[str, Any]]


class Leaf(NamedTuple):
    """A module without others inside, and the kind that packs alike."""

    module: nn.Module
    kind: str


def leaves_of(model: nn.Module) -> dict[str, Leaf]:
    """The modules that conversion may pack, by path."""
    modules = {path: m for path, m in modules_of(model).items() if not _holds_modules(m)}
    return {path: Leaf(module, _kind(module)) for path, module in modules.items()}


def packed_groups(
    model: nn.Module, leaves: dict[str, Leaf], plain: list[WeightGroup], bits: int
) -> list[WeightGroup]:
    """`groups` of the declared `model`, once mlx-lm has packed it at `bits`.

    `leaves` are its modules (`leaves_of`) and `plain` its groups as they are. The model is left as
    it is, and nothing is evaluated. Raises BadConfig where mlx-lm cannot pack it.
    """
    try:
        return _packed_groups(leaves, _choices(model, leaves, bits), plain)
    except ERRORS as error:
        raise BadConfig(f"The model cannot be packed at {bits} bits: {error}") from error


def _packed_groups(
    leaves: dict[str, Leaf], choices: dict[str, dict[str, Any]], plain: list[WeightGroup]
) -> list[WeightGroup]:
    alike: dict[str, list[WeightGroup]] = {}
    found, packed = [], set()
    for group in plain:
        path = group.name.rpartition(".")[0]
        if path not in choices:
            found.append(group)
        elif path not in packed:
            packed.add(path)
            kind = f"{leaves[path].kind} {choices[path]}"
            if kind not in alike:
                alike[kind] = groups(_alone(leaves[path].module.to_quantized(**choices[path])))
            found += [_inside(path, each) for each in alike[kind]]
    return found


def _choices(model: nn.Module, leaves: dict[str, Leaf], bits: int) -> dict[str, dict[str, Any]]:
    """How mlx-lm's conversion packs each module that it packs, by the module's path."""
    chosen: dict[str, dict[str, Any]] = {}

    def look(_: nn.Module, group_size: int, bits: int, mode: str, class_predicate: Choice) -> None:
        usual = {"group_size": group_size, "bits": bits, "mode": mode}
        for path, (module, _) in leaves.items():
            if choice := class_predicate(path, module):
                chosen[path] = choice if isinstance(choice, dict) else usual

    unpacked: list[tuple[Any, str, Callable[..., Any]]] = [
        (nn, "quantize", look),
        (mlx_lm_utils, "compute_bits_per_weight", lambda model: 0),
    ]
    with patched(unpacked), redirect_stdout(StringIO()):  # it prints the bits per weight
        mlx_lm_utils.quantize_model(model, {}, None, bits)
    return chosen


def _holds_modules(tree: Any) -> bool:
    inside = [each for each in _values(tree) if isinstance(each, dict | list)]
    return any(
        _filled(each) if nn.Module.is_module(each) else _holds_modules(each) for each in inside
    )


def _filled(tree: Any) -> bool:
    return not isinstance(tree, dict | list) or any(map(_filled, _values(tree)))


def _values(tree: Any) -> Any:
    return tree.values() if isinstance(tree, dict) else tree


def _kind(module: nn.Module) -> str:
    arrays = ((name, value) for name, value in module.items() if isinstance(value, mx.array))
    return f"{type(module)} {[(name, array.shape, array.dtype) for name, array in arrays]}"


def _alone(module: nn.Module) -> nn.Module:
    model = nn.Module()
    model.it = module
    return model


def _inside(path: str, group: WeightGroup) -> WeightGroup:
    """The group of a module that stood alone, at its place in the model."""
    name, *arrays = (path + each.removeprefix("it") for each in (group.name, *group.arrays))
    return replace(group, name=name, arrays=tuple(arrays))
