"""Text, tables and plain plots: they are shown beside the claim that recorded them."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from llm_spec.ledger.kinds.kind import Exhibit, Kind, as_cell, is_number, numbers, string, strings
from llm_spec.text.untrusted import visible

SHADES = " ░▒▓█"
BLOCKS = "▁▂▃▄▅▆▇█"


def _text_fault(exhibit: Exhibit) -> str | None:
    string(exhibit["text"])
    return None


def _table_fault(exhibit: Exhibit) -> str | None:
    strings(exhibit["columns"])
    if any(len(row) != len(exhibit["columns"]) for row in exhibit["rows"]):
        return "has a row with another number of cells than its columns"
    return None


def _bars_fault(exhibit: Exhibit) -> str | None:
    numbers(exhibit["values"])
    if len(exhibit["labels"]) != len(exhibit["values"]):
        return "has not as many labels as values"
    return None


def _heatmap_fault(exhibit: Exhibit) -> str | None:
    rows, columns, values = exhibit["rows"], exhibit["columns"], exhibit["values"]
    for row in values:
        numbers(row)
    if len(rows) != len(values) or len({len(row) for row in values}) > 1:
        return "has not as many values in each row as it names"
    if columns and values and len(columns) != len(values[0]):
        return "has not as many columns as it names"
    return None


def _curve_fault(exhibit: Exhibit) -> str | None:
    numbers(exhibit["x"])
    for series in exhibit["series"].values():
        numbers(series)
        if len(series) != len(exhibit["x"]):
            return "has a series that is not as long as its x axis"
    return None


def _histogram_fault(exhibit: Exhibit) -> str | None:
    numbers(exhibit["edges"])
    if any(len(series) != len(exhibit["edges"]) - 1 for series in exhibit["series"].values()):
        return "has not one count between each two edges"
    return None


def _draw_text(content: Exhibit) -> Text:
    return Text("\n".join(visible(line) for line in content["text"].splitlines()))


def draw_table(content: Exhibit) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for index, name in enumerate(content["columns"]):
        numeric = all(is_number(row[index]) for row in content["rows"])
        table.add_column(Text(visible(name)), justify="right" if numeric else "left")
    for row in content["rows"]:
        table.add_row(*(Text(as_cell(cell)) for cell in row))
    return table


def draw_bars(content: Exhibit, width: int = 30) -> Group:
    values = content["values"]
    largest = max((abs(v) for v in values if v is not None), default=0) or 1
    label_width = max((len(visible(str(label))) for label in content["labels"]), default=0)
    lines = []
    for label, value in zip(content["labels"], values, strict=True):
        bar = "█" * round(width * abs(value or 0) / largest)
        text = f"  {visible(str(label)):>{label_width}}  {as_cell(value):>8}  "
        lines.append(Text(text).append(bar, style="cyan"))
    return Group(Text(f"  {visible(content['axis'])}", style="dim"), *lines)


def _draw_heatmap(content: Exhibit) -> Table:
    """A shade and a percentage a cell; rows are `row_axis`, columns are `column_axis`."""
    values = [[cell or 0.0 for cell in row] for row in content["values"]]
    largest = max((abs(cell) for row in values for cell in row), default=0) or 1
    table = Table(
        box=None, pad_edge=False, header_style="dim", caption_justify="left",
        caption=Text(f"rows {content['row_axis']}, columns {content['column_axis']}; "
                     f"100 = {largest:.3g} {content['unit']}"),
    )  # fmt: skip
    table.add_column("")
    for name in content["columns"]:
        table.add_column(Text(visible(str(name))), justify="right", no_wrap=True)
    for name, row in zip(content["rows"], values, strict=True):
        shares = [abs(cell) / largest for cell in row]
        cells = [f"{SHADES[round(s * 4)]}{100 * s:3.0f}" if s else "·" for s in shares]
        table.add_row(Text(visible(str(name))), *map(Text, cells))
    return table


def _draw_curve(content: Exhibit) -> Group:
    lines = []
    for name, series in content["series"].items():
        known = [y for y in series if y is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        span = (high - low) or 1
        spark = "".join(" " if y is None else BLOCKS[round(7 * (y - low) / span)] for y in series)
        lines.append(Text(f"  {visible(name)}  {spark}  {as_cell(low)} … {as_cell(high)}"))
    x = content["x"]
    ends = f"{as_cell(x[0])} … {as_cell(x[-1])}" if x else "no points"
    axes = f"  {content['y_axis']} over {content['x_axis']} ({ends})"
    return Group(Text(visible(axes), style="dim"), *lines)


KINDS = (
    Kind("text", _text_fault, _draw_text),
    Kind("table", _table_fault, draw_table),
    Kind("bars", _bars_fault, draw_bars, script=True, rank=3),
    Kind("heatmap", _heatmap_fault, _draw_heatmap, script=True, rank=1),
    Kind("curve", _curve_fault, _draw_curve, script=True, rank=0),
    Kind("histogram", _histogram_fault, script=True, rank=2),
)
