"""Attention maps as they are shown: packed for the page, and named by what a head looks at."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_spec.observe.trace import Trace

UNIT = 10_000
"""Weights are shown in steps of 0.01 %."""
KINDS = {
    "first": ("0", "the first token"),
    "previous": ("<", "the token before"),
    "own": ("=", "itself"),
    "spread": ("·", "none of these"),
}
"""What a head mostly looks at: its sign on a terminal, and its name."""


@dataclass(frozen=True)
class LayerMaps:
    """One layer's maps as they are shown: (heads, queries, keys) in steps of 1 / `UNIT`. Keys stand
    in the order of the text where `in_order`; with `sink`, the last column is the weight that a
    learned sink took."""

    weights: np.ndarray
    in_order: bool
    sink: bool


def shown_maps(seen: Trace) -> list[LayerMaps | None]:
    """Every layer's maps, None where there is none to show."""
    return [_shown(seen, layer) for layer in range(len(seen.attention))]


def _shown(seen: Trace, layer: int) -> LayerMaps | None:
    weights, sink = seen.attention[layer], seen.sinks[layer]
    if weights is None:
        return None
    positions = seen.key_positions[layer]
    in_order = positions is not None and len(positions) == weights.shape[1]
    if positions is not None and in_order:
        weights = weights[:, :, np.argsort(positions)]
    if sink is not None:
        weights = np.concatenate([weights, sink[..., None]], axis=-1)
    return LayerMaps(np.rint(UNIT * weights).astype("<u2"), in_order, sink is not None)


def packed_maps(texts: Sequence[Sequence[LayerMaps | None]]) -> str:
    """All maps of all texts one after the other, as gzip in base 64."""
    held = [maps.weights.tobytes() for text in texts for maps in text if maps is not None]
    return base64.b64encode(gzip.compress(b"".join(held), 6, mtime=0)).decode("ascii")


def shapes(text: Sequence[LayerMaps | None]) -> list[dict[str, object] | None]:
    """What a script needs to find each layer's maps again in `packed_maps`."""
    return [
        None
        if maps is None
        else {
            **dict(zip(("heads", "queries", "keys"), maps.weights.shape, strict=True)),
            "inOrder": maps.in_order,
            "sink": maps.sink,
        }
        for maps in text
    ]


def head_kinds(seen: Trace) -> list[list[str] | None]:
    """[layer][head]: the kind of token that holds at least half of a head's weight, over the
    queries that come after the first; of a text of one token nothing can be said."""
    return [
        None if maps is None or not maps.in_order else [_kind(m) for m in maps.weights / UNIT]
        for maps in shown_maps(seen)
    ]


def _kind(weights: np.ndarray) -> str:
    queries = np.arange(1, len(weights))
    if not len(queries):
        return "spread"
    # With the second token, the first is also the one before it: it counts as the first.
    shares = {
        "first": weights[queries, 0].mean(),
        "own": weights[queries, queries].mean(),
        "previous": weights[queries[1:], queries[1:] - 1].mean() if len(queries) > 1 else 0,
    }
    best = max(shares, key=lambda name: float(shares[name]))
    return best if shares[best] >= 0.5 else "spread"
