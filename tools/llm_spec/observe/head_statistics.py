"""What every head of a model does over a long context, without keeping its maps.

    seen = attention_statistics(model, token_ids)
    seen.layers[5].previous_token.argmax()  # the head of layer 5 that looks back one token most

Each layer is looked at as it attends, a block of queries at a time, and only a few numbers a head
stay. So memory grows with what one layer needs to attend, and not with the number of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.observe import attention
from llm_spec.observe.attention import AttentionCall
from llm_spec.observe.attention_maps import (
    Shape,
    accept,
    key_positions,
    unseen_layers,
    worst_error,
)
from llm_spec.observe.hooks import cache_parts, watched
from llm_spec.observe.inputs import checked_token_ids
from llm_spec.observe.recorder import PassRecorder, layer_names

BLOCK_BYTES = 4_000_000
"""How much of a layer's maps is looked at at once: about what a processor's cache holds."""

TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class HeadStatistics:
    """A layer's heads, each by its mean over the queries. Float64 (heads,) arrays.

    A head that does not show a trait scores about what attention spread evenly would. NaN where no
    query could show it, or where it is not known which tokens the keys are of.
    """

    entropy: np.ndarray
    """In nats: 0 for one key, log(n) for n keys alike."""
    first_token: np.ndarray
    """Weight on position 0, over the queries that follow it: there, heads park what they do not
    need."""
    previous_token: np.ndarray
    """Weight on the position before the query's."""
    induction: np.ndarray
    """Weight on what came after earlier occurrences of the query's own token, over the queries that
    have any."""
    distance: np.ndarray
    """How many positions back, the sink's weight left out."""
    sink: np.ndarray
    """Weight that went to a learned sink."""


@dataclass(frozen=True)
class AttentionStatistics:
    """One entry a layer: its heads, or None where it has no attention that can be seen."""

    layers: list[HeadStatistics | None]
    reconstruction_errors: list[float | None]
    names: list[str]
    unseen: dict[int, str]


def attention_statistics(
    model: nn.Module,
    token_ids: Sequence[int] | mx.array,
    cache: list[Any] | None = None,
    verify: bool = True,
) -> AttentionStatistics:
    """Run `model` once on `token_ids` and say what its heads did.

    Logits are not computed. The heads of a layer that attends several times follow each other.

    Args:
        token_ids: one sequence. With a cache, the tokens that follow those in it.
        cache: one entry per layer; the pass extends it. Which tokens it holds is not known, so
            `induction` then counts only what repeats within `token_ids`.
        verify: check that each layer's maps give its attention output.

    Raises:
        TraceError: the input cannot be traced, or a map failed verification.
    """
    ids = checked_token_ids(model, token_ids, cache)
    seen: list[list[tuple[Shape, HeadStatistics, float | None]]] = [[] for _ in layer_names(model)]

    def look(call: AttentionCall) -> None:
        recorder.forget_states()
        if call.layer is None:
            return
        # What made the inputs is let go before the scores are allocated.
        mx.eval(call.inputs())
        mx.clear_cache()
        mx.eval(call.output)
        positions = key_positions(recorder.caches.get(call.layer), [call.shape])
        statistics, error = _look(call, positions, np.array(ids), verify)
        if error is not None:
            accept(model, call, error)
        seen[call.layer].append((call.shape, statistics, error))

    recorder = PassRecorder(model, ids, look)
    with watched(model, cache, recorder):
        model(mx.array([ids]), **({} if cache is None else {"cache": cache}))
    states = [getattr(part, "state", None) for e in cache or () for part in cache_parts(e)]
    mx.eval([array for _, array in tree_flatten(states) if isinstance(array, mx.array)])

    return AttentionStatistics(
        layers=[_joined([statistics for _, statistics, _ in calls]) for calls in seen],
        reconstruction_errors=[
            worst_error([error for *_, error in calls if error is not None]) for calls in seen
        ],
        names=layer_names(model),
        unseen=unseen_layers(model, recorder, [[shape for shape, *_ in calls] for calls in seen]),
    )


def _look(
    call: AttentionCall, positions: np.ndarray | None, token_ids: np.ndarray, verify: bool
) -> tuple[HeadStatistics, float | None]:
    """One call's statistics, a block of queries at a time, and its reconstruction error."""
    batch, heads, queries, keys = call.shape
    step = max(1, BLOCK_BYTES // (4 * batch * heads * keys))
    blocks, errors = [], []
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        weights, sink = attention.recompute_weights(call, rows)
        if verify:
            errors.append(
                attention.reconstruction_error(weights, call.values, call.output[:, :, rows])
            )
        where = None if positions is None else _Where(positions, token_ids, rows)
        blocks.append(_traits(weights, sink, where))
    means = {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}
    # A query that cannot show a trait is not counted.
    statistics = HeadStatistics(**{name: _mean(rows) for name, rows in means.items()})
    return statistics, worst_error(errors)


class _Where:
    """Where a block of queries and all keys are in the sequence, and which tokens they are of."""

    def __init__(self, positions: np.ndarray, token_ids: np.ndarray, rows: slice) -> None:
        first = positions.max() + 1 - len(token_ids)  # the newest key is the last query's own
        self.keys = positions
        self.queries = np.arange(first, first + len(token_ids))[rows]
        self.tokens = token_ids[rows]
        before = positions - 1 - first
        self.previous_tokens = np.where(before >= 0, token_ids[np.maximum(before, 0)], -1)


def _traits(
    weights: np.ndarray, sink: np.ndarray | None, where: _Where | None
) -> dict[str, np.ndarray]:
    """Each trait of each query, (batch, heads, queries); NaN where the query cannot show it."""
    total = weights.sum(axis=-1)
    logarithms = np.log(np.maximum(weights, TINY))
    logarithms *= weights
    nothing = np.full(total.shape, np.nan)
    traits = {
        "entropy": np.log(total) - logarithms.sum(axis=-1) / total,
        "sink": nothing if sink is None else sink,
    }
    if where is None:
        return traits | dict.fromkeys(
            ("first_token", "previous_token", "induction", "distance"), nothing
        )
    queries, keys = where.queries[:, None], where.keys
    follows = where.previous_tokens == where.tokens[:, None]
    return traits | {
        "first_token": _weight_on(weights, (keys == 0) & (queries > 0)),
        "previous_token": _weight_on(weights, keys == queries - 1),
        "induction": _weight_on(weights, follows & (keys <= queries)),
        "distance": where.queries - weights @ keys.astype(np.float32) / total,
    }


def _weight_on(weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Each query's weight on its chosen keys; NaN for queries without any."""
    on = np.where(chosen.any(axis=-1), np.zeros(weights.shape[:3]), np.nan)
    query, key = np.nonzero(chosen)
    batch, heads, queries = on.shape  # spelled out: with no key chosen a size cannot be inferred
    found = weights[:, :, query, key].reshape(batch * heads, len(query))
    np.add.at(on.reshape(batch * heads, queries).T, query, found.T)
    return on


def _mean(rows: np.ndarray) -> np.ndarray:
    """(batch, heads, queries) to (heads,), leaving out NaN; NaN where nothing is left."""
    counted = ~np.isnan(rows)
    total = np.where(counted, rows, 0).sum(axis=(0, 2), dtype=np.float64)
    count = counted.sum(axis=(0, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _joined(calls: list[HeadStatistics]) -> HeadStatistics | None:
    if not calls:
        return None
    names = [field.name for field in fields(HeadStatistics)]
    return HeadStatistics(*(np.concatenate([getattr(c, name) for c in calls]) for name in names))
