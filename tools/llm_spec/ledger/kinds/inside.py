"""What is inside a model: its weight tensors, its attention maps, scores of its heads."""

from rich.table import Table

from llm_spec.ledger.kinds.kind import Exhibit, Kind, as_cell, numbers, string, strings
from llm_spec.ledger.kinds.plots import draw_table


def _attention_fault(exhibit: Exhibit) -> str | None:
    strings(exhibit["tokens"])
    length = len(exhibit["tokens"])
    for layer in exhibit["weights"]:
        for head in layer or []:
            if len(head) != length or any(len(row) < length for row in head):
                return "has not one row and one column a token"
            for row in head:
                numbers(row)
    return None


def _heads_fault(exhibit: Exhibit) -> str | None:
    for rows in exhibit["scores"].values():
        for row in rows:
            if row is not None:
                numbers(row)
    return None


def _weights_fault(exhibit: Exhibit) -> str | None:
    for group in exhibit["groups"]:
        string(group["name"])
        if group["parameters"] + group["bytes"] < 0:
            return "has a group of negative size"
    return None


def _draw_weights(content: Exhibit, longest: int = 24) -> Table:
    groups = content["groups"]
    names = ("name", "logical_shape", "stored_shape", "dtype", "parameters", "bytes")
    rows = [[as_cell(group[name]) for name in names] for group in groups[:longest]]
    if len(groups) > longest:
        rows.append([f"… and {len(groups) - longest} more", "", "", "", "", ""])
    return draw_table({"columns": [name.replace("_", " ") for name in names], "rows": rows})


KINDS = (
    Kind("weights", _weights_fault, _draw_weights, "weights", True, own_panel=True),
    Kind(
        "attention",
        _attention_fault,
        section="attention",
        script=True,
        own_panel=True,
        shape="attention maps",
    ),
    Kind(
        "heads",
        _heads_fault,
        section="attention",
        script=True,
        own_panel=True,
        shape="scores of heads",
    ),
)
