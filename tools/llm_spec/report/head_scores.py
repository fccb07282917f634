"""Scores of heads, worked out from attention maps where a run recorded only the maps."""

import math
from collections.abc import Mapping
from typing import Any

Row = list[float | None]


def heads_of(attention: Mapping[str, Any]) -> dict[str, Any] | None:
    """A `heads` exhibit from an `attention` exhibit, or None where no layer attends.

    Per head, averaged over the tokens that have one before them: entropy in bits, the weight on
    the first token (sink), and the weight on the token just before (previous token).
    """
    layers = attention["weights"]
    heads = max((len(layer) for layer in layers if layer), default=0)
    if not heads or len(attention["tokens"]) < 3:
        return None
    scores: dict[str, list[list[float] | None]] = {"entropy": [], "sink": [], "previous token": []}
    for layer in layers:
        columns = [_scores(head) for head in layer] if layer else None
        for at, name in enumerate(scores):
            scores[name].append([head[at] for head in columns] if columns else None)
    return {
        "kind": "heads",
        "title": attention["title"],
        "layers": len(layers),
        "heads": heads,
        "scores": scores,
        "units": {"entropy": "bits"},
    }


def _scores(head: list[Row]) -> tuple[float, float, float]:
    rows = [[weight or 0.0 for weight in row] for row in head][2:]
    entropy = [-sum(w * math.log2(w) for w in row if w > 0) for row in rows]
    sink = [row[0] for row in rows]
    previous = [row[query - 1] for query, row in enumerate(rows, start=2)]
    return _mean(entropy), _mean(sink), _mean(previous)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)
