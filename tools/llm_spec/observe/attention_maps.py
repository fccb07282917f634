"""What a trace says of attention beyond its maps: whether they are true, what their columns are,
and which layers attend in a way that cannot be seen."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.numerics import distances, tolerances
from llm_spec.observe import attention
from llm_spec.observe.attention import AttentionCall
from llm_spec.observe.hooks import cache_parts
from llm_spec.observe.inputs import locate_non_finite
from llm_spec.observe.recorder import PassRecorder, TraceError

Shape = tuple[int, int, int, int]


def accept(model: nn.Module, call: AttentionCall, error: float) -> None:
    """Raise `TraceError` unless a map's reconstruction error is within what rounding explains.

    Not a number counts as too far, and the message then says which weights hold such.
    """
    allowed = allowed_error(call, error)
    if error <= allowed:
        return
    where = f"layer {call.layer} ({call.module})"
    if np.isfinite(error):
        raise TraceError(
            f"{where}: the map misses the layer's attention output by {error:.2g} of its norm, "
            f"but at most {allowed:.2g} is allowed in {name_of(call.dtype)}"
        )
    broken = locate_non_finite(model)
    cause = str(broken[0]) if broken else "all weights are finite, so it arose on the way"
    more = f" (and {len(broken) - 1} more tensors)" if len(broken) > 1 else ""
    raise TraceError(f"{where}: attention is not a number; {cause}{more}")


def allowed_error(call: AttentionCall, error: float) -> float:
    """How far rounding may take a call's map from its output: the usual bound where `error` is
    within that, else the bound that follows the largest score."""
    keys = call.shape[-1]
    usual = tolerances.reconstruction(call.dtype, keys)
    score = 0.0 if error <= usual else attention.largest_score(call)
    return tolerances.reconstruction(call.dtype, keys, score) if np.isfinite(score) else usual


def worst_error(errors: list[float]) -> float | None:
    """The largest reconstruction error of a layer's calls, None where it has none."""
    return distances.worst(errors) if errors else None


def name_of(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def key_positions(cache: Any, shapes: list[Shape]) -> np.ndarray | None:
    """The position in the sequence of each column of a layer's map, or None where that is unknown.

    Args:
        cache: where the layer's keys came from, after the pass; None without one.
        shapes: of the layer's calls.
    """
    if not shapes or shapes[0][0] != 1:
        return None
    _, _, queries, keys = shapes[0]
    if cache is None:
        return np.arange(keys) if keys == queries else None
    seen = int(cache.offset)
    if keys == seen:
        return np.arange(keys)
    first = seen - keys
    if not hasattr(cache, "_temporal_order"):
        return np.arange(first, seen) if getattr(cache, "start_position", None) == first else None
    # A rotating cache knows which of its columns is oldest, and the first `keep` never leave.
    columns = mx.arange(keys).reshape(1, 1, -1, 1)
    by_age = np.asarray(cache._temporal_order(columns)).ravel()
    if len(by_age) != keys:
        return None
    positions = np.empty(keys, dtype=int)
    positions[by_age] = np.arange(first, seen)
    positions[by_age[: cache.keep]] = np.arange(cache.keep)
    return positions


def unseen_layers(
    model: nn.Module, recorder: PassRecorder, layers: list[list[Shape]]
) -> dict[int, str]:
    """Layers that attend, to judge by what they keep, but not in a way that can be watched."""
    silent = [i for i, shapes in enumerate(layers) if not shapes]
    unseen = {
        i: f"weighs by a softmax in {recorder.unread[i]}, but what it weighs cannot be seen"
        for i in silent
        if i in recorder.unread
    }
    keeps = "keeps keys and values, but how it attends to them cannot be seen"
    unseen |= {i: keeps for i in silent if i in recorder.caches and i not in unseen}
    for i, shapes in enumerate(layers):
        if len({shape[2:] for shape in shapes}) > 1:
            unseen[i] = "attends several times over different keys: see `calls`"
    if silent and not recorder.caches:
        entries = make_prompt_cache(model)
        holds = [any(hasattr(p, "update_and_fetch") for p in cache_parts(e)) for e in entries]
        if len(entries) == len(layers):
            unseen |= {i: keeps for i in silent if holds[i] and i not in unseen}
        elif any(holds) and len(silent) == len(layers):
            unseen |= {i: keeps for i in silent if i not in unseen}
    return unseen
