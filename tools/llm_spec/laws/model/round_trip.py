"""A model's way through the disk."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm import utils as loading

from llm_spec.model.declare import signatures_kept
from llm_spec.observe.inputs import pieces

SMALL = 2**26  # bytes of weights that may be in memory twice


@contextlib.contextmanager
def saved(
    model: nn.Module, config: Mapping[str, Any], spare: Mapping[str, mx.array] | None = None
) -> Iterator[Path]:
    """A directory of `model`, `config` and arrays to spare, while the context is open."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        loading.save_model(path, model)
        if spare:
            mx.save_safetensors(str(path / "model-spare.safetensors"), dict(spare))
        loading.save_config(json.loads(json.dumps(config)), path / "config.json")
        yield path


def reloaded(
    model: nn.Module, config: Mapping[str, Any], spare: Mapping[str, mx.array] | None = None
) -> nn.Module:
    """`model` as mlx-lm loads it again. Of a large one, see `loaded`."""
    originals = {**dict(tree_flatten(model.parameters())), **(spare or {})}
    with saved(model, config, spare) as directory:
        return loaded(directory, originals)


def loaded(directory: Path, originals: Mapping[str, mx.array]) -> nn.Module:
    """The model that mlx-lm loads from `directory`, with all weights in memory. Where they are more
    than `SMALL`, those that equal the array of the same name in `originals` share its memory."""
    again = loaded_lazily(directory)
    if sum(array.nbytes for _, array in tree_flatten(again.parameters())) > SMALL:
        _share(again, originals)
    mx.eval(again.parameters())
    return again


def loaded_lazily(directory: Path) -> nn.Module:
    """The same, whose weights are read when they are asked for: while the directory is there."""
    with signatures_kept():
        return loading.load_model(directory, lazy=True)[0]


def _share(again: nn.Module, originals: Mapping[str, mx.array]) -> None:
    """Bring the weights of `again` into memory one by one: the model is never there twice."""
    arrays = tree_flatten(again.parameters())
    while arrays:
        path, array = arrays.pop()
        if path in originals and _is_same(array, originals[path]):
            again.update(tree_unflatten([(path, originals[path])]))
        else:
            mx.eval(array)


def _is_same(array: mx.array, other: mx.array) -> bool:
    same_kind = array.dtype == other.dtype and array.shape == other.shape
    return same_kind and all(
        mx.array_equal(*pair).item() for pair in zip(pieces(array), pieces(other), strict=True)
    )
