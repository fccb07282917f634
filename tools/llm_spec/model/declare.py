"""Declare a model from its configuration without materialising a weight.

MLX evaluates nothing until it is asked to. A declared model knows the shape, type and size of every
array, and even a forward pass through it only builds a graph, which knows those of the caches.
"""

import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten
from mlx_lm import utils as mlx_lm_utils

from llm_spec.model.config import BadConfig, text_config
from llm_spec.observe.hooks import patched
from llm_spec.observe.modules import walk

MODELS = Path(__file__).with_name("models.toml")

# A configuration from the network may ask for anything; this bounds how long declaring it takes, to
# a second.
MOST = {"layers": 512, "n_layer": 512, "experts": 4096, "hc_mult": 64}
MOST_ENTRIES = 4096  # of a list, or letters of a pattern of layers

PACKING = ("quantization", "quantization_config")
ERRORS = (
    ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError, ImportError,
    AssertionError, RuntimeError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A published model: its `config`, and the parameters that a declared copy must have."""

    name: str
    repo: str
    config: dict[str, Any]
    parameters: int


@cache
def published() -> dict[str, Published]:
    """The models of models.toml by name, smallest first within what the plan names."""
    tables = tomllib.loads(MODELS.read_text(encoding="utf-8"))
    return {name: Published(name=name, **table) for name, table in tables.items()}


def declare(
    config: Mapping[str, Any],
    bits: int | None = 4,
    group_size: int | None = None,
    mode: str = "affine",
    dtype: mx.Dtype = mx.bfloat16,
) -> nn.Module:
    """Build the model that mlx-lm builds for `config`, its weights declared and not evaluated.

    `bits` packs what mlx-lm's own conversion packs (None leaves all in `dtype`); scales and biases
    are in `dtype`, as in the published conversions. Nothing in a model's directory is executed.
    Raises BadConfig when mlx-lm has no such architecture or the configuration makes no sense.
    """
    config = {k: v for k, v in config.items() if k not in PACKING}
    _check(config)
    try:
        with random_state_kept(), signatures_kept(), nothing_drawn():
            model_class, args_class = mlx_lm_utils._get_classes(config)
            model = model_class(args_class.from_dict(config))
            _make_ready(model, dtype)
            if bits is not None:
                with redirect_stdout(StringIO()):  # it prints the bits per weight
                    mlx_lm_utils.quantize_model(model, config, group_size, bits, mode)
    except ERRORS as error:
        what = f"No model of type {config.get('model_type')!r} can be declared"
        raise BadConfig.after(what, error) from error
    return model


def _make_ready(model: nn.Module, dtype: mx.Dtype) -> None:
    """What conversion does: floating arrays become `dtype`, but for those the model exempts; and
    what eval() does, in the same walk."""
    wanted = getattr(model, "cast_predicate", lambda path: True)
    modules, parameters = walk(model)
    for module in modules.values():
        module._set_training_mode(False)
    for path, array in parameters.items():
        if array.dtype != dtype and mx.issubdtype(array.dtype, mx.floating) and wanted(path):
            owner, _, name = path.rpartition(".")
            if owner in modules:
                modules[owner][name] = array.astype(dtype)
            else:  # in a list or an object that a module keeps
                model.update(tree_unflatten([(path, array.astype(dtype))]))


def _check(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kind):
        raise BadConfig(f"The configuration's model_type is {kind!r}, which names no architecture.")
    for level in (config, text_config(config)):
        for key, value in level.items():
            if isinstance(value, int) and not -1 <= value < 2**31:
                raise BadConfig(f"The configuration's {key} is {value}, which no model has.")
    _check_counts(config)


def _check_counts(level: Mapping[str, Any]) -> None:
    for key, value in level.items():
        most = next((n for word, n in MOST.items() if word in key), None)
        if isinstance(value, Mapping):
            _check_counts(value)
        elif isinstance(value, int) and most and value > most:
            raise BadConfig(f"The configuration's {key} is {value}, more than {most}.")
        elif _told_by_layer(key, value) and len(value) > MOST_ENTRIES:
            said = f"{len(value):,} entries, more than {MOST_ENTRIES:,}"
            raise BadConfig(f"The configuration's {key} has {said}.")


def _told_by_layer(key: str, value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and "pattern" in key)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave MLX's global random state as it was: declaring draws from it."""
    state: Any = mx.random.state
    first, second = state[0].tolist()
    try:
        yield
    finally:
        mx.random.seed(first << 32 | second)  # a seed's halves are the key that it makes


@contextmanager
def signatures_kept() -> Iterator[None]:
    """Read each signature once. For every setting of a configuration, mlx-lm asks for that of the
    class it belongs to: that takes longer than all else in the making of a small model."""
    with patched([(inspect, "signature", cache(inspect.signature))]):
        yield


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Let a model's first weights be zeros: drawing them is most of what declaring one takes."""

    def uniform(
        low: Any = 0, high: Any = 1, shape: Any = (), dtype: mx.Dtype = mx.float32, **_: Any
    ) -> mx.array:
        return mx.zeros(shape, dtype)

    def normal(shape: Any = (), dtype: mx.Dtype = mx.float32, *_: Any, **__: Any) -> mx.array:
        return mx.zeros(shape, dtype)

    with patched([(mx.random, "uniform", uniform), (mx.random, "normal", normal)]):
        yield
