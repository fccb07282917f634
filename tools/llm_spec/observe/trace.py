"""One forward pass of any mlx-lm model, seen: embeddings, every layer's output, every attention
map, logits.

    seen = trace(model, tokenizer.encode("The capital of France is"))
    seen.attention[0][3]  # layer 0, head 3: (queries, keys)

The pass computes exactly what it computes untraced. A map is returned only after it gave the
layer's own attention output; where that fails the trace raises, and says by how much.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from llm_spec.numerics import distances, tolerances
from llm_spec.observe import attention
from llm_spec.observe.attention import AttentionCall
from llm_spec.observe.attention_maps import (
    Shape,
    accept,
    key_positions,
    name_of,
    unseen_layers,
    worst_error,
)
from llm_spec.observe.hooks import output_replaced, watched
from llm_spec.observe.inputs import checked_token_ids, locate_non_finite
from llm_spec.observe.recorder import PassRecorder, TraceError, layer_names, layers_of, stream

__all__ = [
    "Trace",
    "TraceError",
    "attention_calls",
    "layer_names",
    "locate_non_finite",
    "logit_lens",
    "trace",
]


@dataclass(frozen=True)
class Trace:
    """What one forward pass did. NumPy float32, per layer where a list."""

    token_ids: list[int]
    embeddings: np.ndarray
    """(tokens, width), as the embedding table gave them."""
    hidden_states: list[np.ndarray]
    """(tokens, width) each: a layer's output. Several residual streams lie side by side."""
    attention: list[np.ndarray | None]
    """(heads, queries, keys) each; None where a layer has no attention, or see `unseen`. The heads
    of a layer that attends several times follow each other."""
    sinks: list[np.ndarray | None]
    """(heads, queries) each: the weight that went to a learned sink and to no token."""
    key_positions: list[np.ndarray | None]
    """(keys,) each: which position of the sequence a column of the map is. A rotating cache holds
    its keys out of order. None where columns are not positions, or the model does not tell."""
    logits: np.ndarray
    """(tokens, vocabulary)"""
    modules: dict[str, Any]
    """Paths of the modules that each part came from: `embeddings`, `layers` (a list), `attention`
    (a list of lists), `norm` and `head` (None where the model shows none)."""
    reconstruction_errors: list[float | None]
    """How far each layer's maps are from giving its attention output; None where there is no map,
    or with verify=False."""
    unseen: dict[int, str]
    """Layers whose attention the instrument cannot see, and why."""

    @property
    def note(self) -> str | None:
        """One sentence on attention that is not here, or None."""
        if self.unseen:
            layer, why = next(iter(self.unseen.items()))
            where = self.modules["layers"][layer]
            return f"attention of {len(self.unseen)} layers cannot be seen: {where} {why}"
        if not any(self.modules["attention"]):
            return f"no attention to show: none of {len(self.attention)} layers attends by softmax"
        return None


def trace(
    model: nn.Module,
    token_ids: Sequence[int] | mx.array,
    cache: list[Any] | None = None,
    verify: bool = True,
) -> Trace:
    """Run `model` once on `token_ids` and keep what it did.

    Args:
        token_ids: one sequence. With a cache, the tokens that follow those in it.
        cache: one entry per layer, as from `make_prompt_cache`; the pass extends it, as always.
        verify: check that every layer's maps give its attention output.

    Raises:
        TraceError: the input cannot be traced, or a map failed verification.
    """
    ids = checked_token_ids(model, token_ids, cache)
    recorder, calls, logits = _watched_pass(model, ids, cache)
    embeddings, *states, logits = (
        stream(part, len(ids)) for part in (recorder.embeddings, *recorder.hidden_states, logits)
    )
    seen = []
    room = _room([call.shape for call in calls])
    while calls:
        call = calls.popleft()  # let go of layer by layer, so that memory is used again
        weights, sink = attention.recompute_weights(call, out=next(room))
        error = None
        if verify:
            error = attention.reconstruction_error(weights, call.values, call.output)
            accept(model, call, error)
        seen.append(_Seen(call.layer, call.module, call.shape, weights, sink, error))
    mx.eval(embeddings, states, logits)

    layers = [[call for call in seen if call.layer == i] for i in range(len(states))]
    shapes = [[call.shape for call in layer] for layer in layers]
    norm, head = recorder.norm_and_head(logits.shape[-1])
    return Trace(
        token_ids=ids,
        embeddings=np.asarray(embeddings),
        hidden_states=[np.asarray(state) for state in states],
        attention=[_joined([call.weights for call in layer]) for layer in layers],
        sinks=[_joined([call.sink for call in layer]) for layer in layers],
        key_positions=[key_positions(recorder.caches.get(i), s) for i, s in enumerate(shapes)],
        logits=np.asarray(logits),
        modules={
            "embeddings": recorder.embedding_path,
            "layers": layer_names(model),
            "attention": [[call.module for call in layer] for layer in layers],
            "norm": norm,
            "head": head,
        },
        reconstruction_errors=[
            worst_error([call.error for call in layer if call.error is not None])
            for layer in layers
        ],
        unseen=unseen_layers(model, recorder, shapes),
    )


def attention_calls(
    model: nn.Module, token_ids: Sequence[int] | mx.array, cache: list[Any] | None = None
) -> list[list[AttentionCall]]:
    """What every layer's attention is given and gives in one pass, evaluated; by layer.

    `attention.weigh` makes a map of such a call, and `attention.reconstruction_error` checks it.
    """
    ids = checked_token_ids(model, token_ids, cache)
    _, calls, _ = _watched_pass(model, ids, cache)
    mx.eval([(call.inputs(), call.output) for call in calls])
    return [[call for call in calls if call.layer == i] for i in range(len(layers_of(model)))]


def _watched_pass(
    model: nn.Module, ids: list[int], cache: list[Any] | None
) -> tuple[PassRecorder, deque[AttentionCall], mx.array]:
    """What was noted of a pass that is still lazy, and its logits (1, tokens, vocabulary)."""
    calls: deque[AttentionCall] = deque()
    recorder = PassRecorder(model, ids, calls.append)
    with watched(model, cache, recorder):
        logits = model(mx.array([ids]), **({} if cache is None else {"cache": cache}))
    return recorder, calls, logits


@dataclass(frozen=True)
class _Seen:
    """What is kept of a use of attention."""

    layer: int | None
    module: str
    shape: Shape
    weights: np.ndarray
    sink: np.ndarray | None
    error: float | None


def _room(shapes: list[Shape]) -> Iterator[np.ndarray]:
    """An empty array for each shape, all in one block: that comes in large pages where the system
    has them, and small ones cost as much time as the maps that are put there."""
    sizes = [math.prod(shape) for shape in shapes]
    block = np.empty(sum(sizes), np.float32)
    for shape, size, end in zip(shapes, sizes, accumulate(sizes), strict=True):
        yield block[end - size : end].reshape(shape)


def logit_lens(model: nn.Module, trace: Trace, position: int = -1) -> np.ndarray:
    """What each layer would predict if it were the last: (layers, vocabulary) float32 logits.

    The model runs on with that layer's output in place of the last layer's, so that its own norm,
    head, scale and cap are applied, whatever they are called. The last row is the model's own.

    Args:
        position: which token's states to read.

    Raises:
        TraceError: the last layer's state does not lead to the model's own logits this way.
    """
    states = np.stack([states[position] for states in trace.hidden_states])  # (layers, width)
    rows, dtype = read_out(model, trace, states)
    check_read_out((rows[-1:], dtype), trace.logits[position][None])
    return rows


def read_out(model: nn.Module, trace: Trace, states: np.ndarray) -> tuple[np.ndarray, mx.Dtype]:
    """The logits, (rows, vocabulary) float32, that the model gives to `states` (rows, width) in
    place of its last layer's output, and the number format of that output."""
    dtype = mx.float32

    def replace(output: Any) -> Any:
        nonlocal dtype
        if isinstance(output, (tuple, list)):
            return type(output)([replace(output[0]), *output[1:]])
        dtype = output.dtype
        return mx.array(states).reshape(output.shape).astype(dtype)

    tokens = mx.array([trace.token_ids[:1] * len(states)])
    with output_replaced(layers_of(model)[-1], replace):
        logits = model(tokens).reshape(len(states), -1).astype(mx.float32)
    # Of the layers below nothing is asked, so they are not computed.
    return np.asarray(logits), dtype


def check_read_out(read: tuple[np.ndarray, mx.Dtype], logits: np.ndarray) -> None:
    """Raise `TraceError` unless the last layer's states led to the model's own `logits`."""
    missed = distances.distance(read[0], logits)
    allowed = tolerances.reordered(read[1], layers=1)
    if not missed <= allowed:
        raise TraceError(
            f"no logit lens: the state after the last layer leads {missed:.2g} away from the "
            f"model's logits, but at most {allowed:.2g} is allowed in {name_of(read[1])}"
        )


def _joined(parts: list[np.ndarray | None]) -> np.ndarray | None:
    """The heads of a layer: (batch, heads, queries, ...) each, to (heads, batch * queries, ...)."""
    arrays = [part for part in parts if part is not None]
    if not arrays or any(array.shape[2:] != arrays[0].shape[2:] for array in arrays):
        return None
    rows = [np.moveaxis(a, 1, 0).reshape(a.shape[1], -1, *a.shape[3:]) for a in arrays]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)
