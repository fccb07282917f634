"""The kinds of exhibit: what each must hold, and in which section of the report it is at home.

A kind that is not listed is still shown, as its plain JSON; so results of a suite that records more
than this report can draw are readable.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

Exhibit = dict[str, Any]

HOME = {
    "tokens": "tokens",
    "neighbours": "embeddings",
    "weights": "weights",
    "attention": "attention",
    "heads": "attention",
    "predictions": "predictions",
    "lens": "predictions",
    "generation": "generation",
    "roofline": "speed",
    "memory": "speed",
    "fit": "speed",
    "ladder": "quantisation",
    "candidates": "assistant",
    "assistant": "assistant",
}
"""Kinds that are drawn as a panel of a section, whichever claim recorded them."""


def shape_fault(exhibit: Exhibit) -> str | None:
    """Why `exhibit` cannot be drawn, or None. An unknown kind has no fault."""
    check = _CHECKS.get(exhibit["kind"])
    if check is None:
        return None
    try:
        return check(exhibit)
    except KeyError as missing:
        return f"has no {missing.args[0]}"
    except (TypeError, AttributeError, ValueError, IndexError):
        return f"is not shaped like {_AN.get(exhibit['kind'], 'a ' + exhibit['kind'])}"


_AN = {"attention": "attention maps", "heads": "scores of heads", "tokens": "tokens"}


def is_number(value: Any) -> bool:
    """Whether `value` is a number, or null for one that was not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _numbers(values: Any) -> None:
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise TypeError


def _strings(values: Any) -> None:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError


def _string(*values: Any) -> None:
    if not all(isinstance(value, str) for value in values):
        raise TypeError


def _text(exhibit: Exhibit) -> str | None:
    _string(exhibit["text"])
    return None


def _table(exhibit: Exhibit) -> str | None:
    _strings(exhibit["columns"])
    if any(len(row) != len(exhibit["columns"]) for row in exhibit["rows"]):
        return "has a row with another number of cells than its columns"
    return None


def _bars(exhibit: Exhibit) -> str | None:
    _numbers(exhibit["values"])
    if len(exhibit["labels"]) != len(exhibit["values"]):
        return "has not as many labels as values"
    return None


def _heatmap(exhibit: Exhibit) -> str | None:
    rows, columns, values = exhibit["rows"], exhibit["columns"], exhibit["values"]
    for row in values:
        _numbers(row)
    if len(rows) != len(values) or len({len(row) for row in values}) > 1:
        return "has not as many values in each row as it names"
    if columns and values and len(columns) != len(values[0]):
        return "has not as many columns as it names"
    return None


def _curve(exhibit: Exhibit) -> str | None:
    _numbers(exhibit["x"])
    for series in exhibit["series"].values():
        _numbers(series)
        if len(series) != len(exhibit["x"]):
            return "has a series that is not as long as its x axis"
    return None


def _histogram(exhibit: Exhibit) -> str | None:
    _numbers(exhibit["edges"])
    if any(len(series) != len(exhibit["edges"]) - 1 for series in exhibit["series"].values()):
        return "has not one count between each two edges"
    return None


def _tokens(exhibit: Exhibit) -> str | None:
    _string(exhibit["tokenizer"])
    for string in exhibit["strings"]:
        _string(string["text"])
        _strings(string["pieces"])
        if len(string["pieces"]) != len(string["ids"]):
            return "has not as many pieces as ids"
    return None


def _attention(exhibit: Exhibit) -> str | None:
    _strings(exhibit["tokens"])
    length = len(exhibit["tokens"])
    for layer in exhibit["weights"]:
        for head in layer or []:
            if len(head) != length or any(len(row) < length for row in head):
                return "has not one row and one column a token"
            for row in head:
                _numbers(row)
    return None


def _heads(exhibit: Exhibit) -> str | None:
    for rows in exhibit["scores"].values():
        for row in rows:
            if row is not None:
                _numbers(row)
    return None


def _predictions(exhibit: Exhibit) -> str | None:
    _string(exhibit["prompt"])
    _strings(exhibit["tokens"])
    logits = exhibit["logits"]
    tail = exhibit.get("tail") or {"logits": [], "counts": []}
    for values in (logits, tail["logits"], tail["counts"]):
        if any(not isinstance(value, int | float) for value in values):
            return "has a token without a logit"
    if len(logits) != len(exhibit["tokens"]) or len(tail["logits"]) != len(tail["counts"]):
        return "has not as many logits as tokens"
    if not logits:
        return "predicts nothing"
    if any(later > earlier for earlier, later in pairwise(logits)):
        return "is not in descending order of logits"
    return None


def _lens(exhibit: Exhibit) -> str | None:
    _strings(exhibit["tokens"])
    _strings(exhibit["layers"])
    if len(exhibit["top"]) != len(exhibit["layers"]):
        return "has not one row a layer"
    for row in exhibit["top"]:
        if len(row) != len(exhibit["tokens"]):
            return "has not one column a position"
        for cell in row:
            _string(cell["token"])
            cell["probability"] + 0
    return None


def _generation(exhibit: Exhibit) -> str | None:
    _string(exhibit["prompt"])
    for step in exhibit["steps"]:
        _string(step["token"])
        step["probability"] + 0
        for other in step.get("runners_up") or []:
            _string(other["token"])
            other["probability"] + 0
    return None


def _weights(exhibit: Exhibit) -> str | None:
    for group in exhibit["groups"]:
        _string(group["name"])
        if group["parameters"] + group["bytes"] < 0:
            return "has a group of negative size"
    return None


def _neighbours(exhibit: Exhibit) -> str | None:
    for word in exhibit["words"]:
        _string(word["word"])
        for neighbour in word["neighbours"]:
            _string(neighbour["token"])
            neighbour["similarity"] + 0
    return None


def _roofline(exhibit: Exhibit) -> str | None:
    if exhibit["bandwidth"] <= 0 or exhibit["flops"] <= 0:
        return "has a ceiling of nothing"
    for point in exhibit["points"]:
        _string(point["name"])
        if point["intensity"] <= 0 or point["flops"] <= 0:
            return "has a point that did no work"
    return None


def _memory(exhibit: Exhibit) -> str | None:
    for row in exhibit["rows"]:
        _string(row["name"])
        _numbers([row["predicted"], row["measured"]])
    return None


def _fit(exhibit: Exhibit) -> str | None:
    contexts = exhibit["contexts"]
    for model in exhibit["models"]:
        _string(model["name"])
        _numbers([model["weights_bytes"], model["read_bytes"], *model["kv_bytes"]])
        if len(model["kv_bytes"]) != len(contexts):
            return "has not one size of the cache a context"
    return None


def _ladder(exhibit: Exhibit) -> str | None:
    for rung in exhibit["rungs"]:
        _string(rung["name"])
        if rung["bytes"] <= 0:
            return "has a rung without bytes"
    return None


def _candidates(exhibit: Exhibit) -> str | None:
    for candidate in exhibit["candidates"]:
        _string(candidate["name"])
        for criterion in candidate.get("criteria") or []:
            _string(criterion["name"])
            if not 0 <= criterion["passed"] <= criterion["tried"]:
                return "passed a criterion more often than it was tried"
        for output in candidate.get("outputs") or []:
            _string(output["task"], output["text"])
    return None


_CHECKS: dict[str, Callable[[Exhibit], str | None]] = {
    "text": _text,
    "table": _table,
    "bars": _bars,
    "heatmap": _heatmap,
    "curve": _curve,
    "histogram": _histogram,
    "tokens": _tokens,
    "attention": _attention,
    "heads": _heads,
    "predictions": _predictions,
    "lens": _lens,
    "generation": _generation,
    "weights": _weights,
    "neighbours": _neighbours,
    "roofline": _roofline,
    "memory": _memory,
    "fit": _fit,
    "ladder": _ladder,
    "candidates": _candidates,
    "assistant": _candidates,
}
