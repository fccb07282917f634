"""What a model can be traced on, checked before it runs, and weights that no trace survives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.observe.hooks import cache_parts
from llm_spec.observe.recorder import TraceError

PIECE = 2**24  # elements that are compared or counted at once
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "model_max_length")


@dataclass(frozen=True)
class NonFinite:
    """A tensor that holds NaN or infinity."""

    module: str
    tensor: str
    count: int
    size: int

    def __str__(self) -> str:
        return f"{self.module}.{self.tensor} holds {self.count} of {self.size} that are not finite"


def locate_non_finite(model: nn.Module) -> list[NonFinite]:
    """Every tensor of `model` that holds NaN or infinity, with how many; scales and biases of
    quantised weights included. Reads all weights once."""
    named = [
        (name, tensor)
        for name, tensor in tree_flatten(model.parameters())
        if mx.issubdtype(tensor.dtype, mx.floating)
    ]
    found = []
    for name, tensor in named:
        count = sum(_not_finite(piece) for piece in pieces(tensor))
        if count:
            module, _, leaf = name.rpartition(".")
            found.append(NonFinite(module, leaf, count, tensor.size))
    return found


def _not_finite(array: mx.array) -> int:
    """NumPy counts: it looks at the memory of a float32 array, and is a hundred times as fast."""
    return array.size - int(np.count_nonzero(np.isfinite(np.asarray(array.astype(mx.float32)))))


def pieces(array: mx.array) -> Iterator[mx.array]:
    """`array` in rows of at most `PIECE` elements where it has several: what is computed of a
    piece takes little memory beside the array."""
    if array.size <= PIECE:
        yield array
        return
    rows = max(1, PIECE * len(array) // array.size)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def checked_token_ids(
    model: nn.Module, token_ids: Sequence[int] | mx.array, cache: list[Any] | None
) -> list[int]:
    """`token_ids` as a list. Raises `TraceError` where the model cannot take them; whether they are
    in the vocabulary shows only at the embedding, and is checked there."""
    given: Any = token_ids
    ids = given.tolist() if hasattr(given, "tolist") else list(given)
    if not ids:
        raise TraceError("the prompt is empty: there is no token to trace")
    wrong = next((i for i in ids if not isinstance(i, int) or isinstance(i, bool)), None)
    if wrong is not None:
        raise TraceError(f"token ids are one flat sequence of integers, but it holds {wrong!r}")
    longest = context_length(model)
    before = max((int(getattr(p, "offset", 0)) for p in _parts(cache)), default=0)
    if longest is not None and before + len(ids) > longest:
        cached = f" after {before} in the cache" if before else ""
        raise TraceError(
            f"the prompt has {len(ids)} tokens{cached}, but the model's context has {longest}"
        )
    return ids


def context_length(model: nn.Module) -> int | None:
    """How many tokens the model was made for, where its configuration says so."""
    args = getattr(model, "args", None)
    for place in (args, getattr(args, "text_config", None)):
        fields = place if isinstance(place, dict) else getattr(place, "__dict__", {})
        for name in CONTEXT_FIELDS:
            if isinstance(fields.get(name), int):
                return fields[name]
    return None


def _parts(cache: list[Any] | None) -> Iterator[Any]:
    return (part for entry in cache or () for part in cache_parts(entry))
