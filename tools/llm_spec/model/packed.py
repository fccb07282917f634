"""What a declared model's weights are, and would be once packed, by looking at one of each kind.

Modules of one kind hold the same weights and are packed alike: a model of 60 layers has a dozen
kinds. Which modules are packed, and how, is what mlx-lm's own conversion decides.
"""

from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn
from mlx_lm import utils as mlx_lm_utils

from llm_spec.model.accounting import WeightGroup, groups
from llm_spec.model.config import BadConfig
from llm_spec.model.declare import ERRORS
from llm_spec.model.repeats import Kinds
from llm_spec.observe.hooks import patched
from llm_spec.observe.modules import Walk, walk

Choice = Callable[[str, nn.Module], bool | dict[str, Any]]
Choices = dict[str, dict[str, Any]]


class Alike(NamedTuple):
    """Modules of one kind: the first of them, the weights that each holds itself, and their paths
    in the model."""

    module: nn.Module
    weights: list[WeightGroup]
    paths: list[str]

    @property
    def parameters(self) -> int:
        """The logical weights of all of them."""
        return len(self.paths) * sum(group.parameters for group in self.weights)

    @property
    def bytes(self) -> int:
        """The bytes of all of them."""
        return len(self.paths) * sum(group.bytes for group in self.weights)


def alike(walked: Walk, kinds: Kinds) -> list[Alike]:
    """The modules that hold weights of a model, by kind. What several share counts as the first's.

    `walked` is a walk over the model.
    """
    counted: set[int] = set()
    own: dict[str, dict[str, mx.array]] = {}
    for name, array in walked.parameters.items():
        if id(array) in counted:
            continue
        counted.add(id(array))
        owner, _, key = name.rpartition(".")
        while owner not in walked.modules:  # in a list or a dictionary that a module keeps
            owner, _, holder = owner.rpartition(".")
            key = f"{holder}.{key}"
        own.setdefault(owner, {})[key] = array
    paths: dict[Any, list[str]] = {}
    for path, arrays in own.items():
        paths.setdefault((kinds.of(walked.modules[path]), *arrays), []).append(path)
    return [
        Alike(module := walked.modules[path], _weights(module, own[path]), [path, *others])
        for path, *others in paths.values()
    ]


def packed(model: nn.Module, plain: Iterable[Alike], bits: int) -> list[Alike]:
    """The `plain` weights of a declared model, once mlx-lm has packed it at `bits`.

    The model is left as it is, and nothing is evaluated. Raises BadConfig where mlx-lm cannot pack.
    """
    try:
        choices = _choices(model, plain, bits)
        return [each for modules in plain for each in _packed(modules, choices)]
    except ERRORS as error:
        raise BadConfig.after(f"The model cannot be packed at {bits} bits", error) from error


def _packed(plain: Alike, choices: Choices) -> Iterable[Alike]:
    module, weights, all_ = plain
    paths: dict[str, list[str]] = {}
    for path in all_:
        paths.setdefault(str(choices.get(path, "")), []).append(path)
    for some in paths.values():
        if choice := choices.get(some[0]):
            packed = module.to_quantized(**choice)
            yield Alike(packed, _weights(packed, walk(packed).parameters), some)
        else:
            yield Alike(module, weights, some)


def _weights(module: nn.Module, arrays: dict[str, mx.array]) -> list[WeightGroup]:
    named = {f"it.{key}": array for key, array in arrays.items()}
    found = groups(Walk({"it": module}, named))
    return [group._replace(name=group.name[3:], arrays=_names(group)) for group in found]


def _names(group: WeightGroup) -> tuple[str, ...]:
    return tuple(name[3:] for name in group.arrays)


def _choices(model: nn.Module, plain: Iterable[Alike], bits: int) -> Choices:
    """How mlx-lm's conversion packs each module that it packs, by the module's path."""
    packable = [m for m in plain if hasattr(m.module, "to_quantized") and not _holds(m.module)]
    chosen: Choices = {}

    def look(_: nn.Module, group_size: int, bits: int, mode: str, class_predicate: Choice) -> None:
        usual = {"group_size": group_size, "bits": bits, "mode": mode}
        for modules in packable:
            for path in modules.paths:
                if choice := class_predicate(path, modules.module):
                    chosen[path] = choice if isinstance(choice, dict) else usual

    unpacked: list[tuple[Any, str, Callable[..., Any]]] = [
        (nn, "quantize", look),
        (mlx_lm_utils, "compute_bits_per_weight", lambda model: 0),
    ]
    with patched(unpacked), redirect_stdout(StringIO()):  # it prints the bits per weight
        mlx_lm_utils.quantize_model(model, {}, None, bits)
    return chosen


def _holds(tree: Any) -> bool:
    """Whether there are modules in it, which are packed and it is not."""
    inside = [each for each in _values(tree) if isinstance(each, dict | list)]
    return any(_filled(each) if nn.Module.is_module(each) else _holds(each) for each in inside)


def _filled(tree: Any) -> bool:
    return not isinstance(tree, dict | list) or any(map(_filled, _values(tree)))


def _values(tree: Any) -> Any:
    return tree.values() if isinstance(tree, dict) else tree
