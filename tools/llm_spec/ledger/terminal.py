"""Exhibits and the ledger as text for a terminal.

Everything is built from `rich.text.Text`, never from markup, and passes `visible` first: a
vocabulary may hold control sequences that a terminal would obey.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from math import exp
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_spec.ledger.claims import KINDS, Claim
from llm_spec.ledger.results import VERDICTS, Row
from llm_spec.text.untrusted import visible

STYLES = {"verified": "green", "refuted": "bold red", "inconclusive": "yellow", "not run": "dim"}
PIECE_STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green",
                "black on bright_magenta")  # fmt: skip
SHADES = " ░▒▓█"
BLOCKS = "▁▂▃▄▅▆▇█"
FEW = 8
"""So many subjects of a claim are named, and so many reasons told; the report has them all."""


def render(renderable: RenderableType, width: int, colour: bool) -> str:
    """Text for a terminal of `width` columns, with colour codes where `colour`."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, highlight=False, emoji=False
    )
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)  # as given three lines above
    return console.file.getvalue()


def exhibit(content: Mapping[str, Any]) -> RenderableType:
    """One exhibit as a rich renderable; kinds that need a page are named, not drawn."""
    drawings: dict[str, Callable[[Mapping[str, Any]], RenderableType]] = {
        "text": _text, "table": _table, "bars": _bars, "heatmap": _heatmap, "curve": _curve,
        "tokens": _tokens, "predictions": _predictions, "generation": _generation,
        "weights": _weights,
    }  # fmt: skip
    draw = drawings.get(content["kind"])
    title = Text(visible(content["title"]), style="bold")
    if draw is None:
        return Group(title, Text(f"  ({content['kind']}: see the report, --report report.html)"))
    return Group(title, draw(content))


def _text(content: Mapping[str, Any]) -> Text:
    return Text("\n".join(visible(line) for line in content["text"].splitlines()))


def _table(content: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for index, name in enumerate(content["columns"]):
        numeric = all(_is_number(row[index]) for row in content["rows"])
        table.add_column(Text(visible(name)), justify="right" if numeric else "left")
    for row in content["rows"]:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    return table


def _bars(content: Mapping[str, Any], width: int = 30) -> Group:
    values = content["values"]
    largest = max((abs(v) for v in values if v is not None), default=0) or 1
    label_width = max((len(visible(str(label))) for label in content["labels"]), default=0)
    lines = []
    for label, value in zip(content["labels"], values, strict=True):
        bar = "█" * round(width * abs(value or 0) / largest)
        text = f"  {visible(str(label)):>{label_width}}  {_cell(value):>8}  "
        lines.append(Text(text).append(bar, style="cyan"))
    return Group(Text(f"  {visible(content['axis'])}", style="dim"), *lines)


def _heatmap(content: Mapping[str, Any]) -> Table:
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


def _curve(content: Mapping[str, Any]) -> Group:
    lines = []
    for name, series in content["series"].items():
        known = [y for y in series if y is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        span = (high - low) or 1
        spark = "".join(" " if y is None else BLOCKS[round(7 * (y - low) / span)] for y in series)
        lines.append(Text(f"  {visible(name)}  {spark}  {_cell(low)} … {_cell(high)}"))
    x = content["x"]
    ends = f"{_cell(x[0])} … {_cell(x[-1])}" if x else "no points"
    axes = f"  {content['y_axis']} over {content['x_axis']} ({ends})"
    return Group(Text(visible(axes), style="dim"), *lines)


def _tokens(content: Mapping[str, Any]) -> Group:
    lines = []
    for string in content["strings"]:
        line = Text("  ")
        cuts = zip(string["pieces"], string["ids"], string["bytes"], strict=True)
        for (piece, id_, data), style in zip(cuts, cycle(PIECE_STYLES)):
            whole = visible(piece) if "\ufffd" not in piece else f"‹{data.upper()}›"
            line.append(whole, style=style).append(f" {id_} ", style="dim")
        lines.append(line)
    return Group(Text(f"  tokenizer: {visible(content['tokenizer'])}", style="dim"), *lines)


def _predictions(content: Mapping[str, Any]) -> Group:
    tail = content["tail"]
    top = max(content["logits"])
    weights = [exp(logit - top) for logit in content["logits"]]
    rest = sum(
        n * exp(logit - top) for logit, n in zip(tail["logits"], tail["counts"], strict=True)
    )
    total = sum(weights) + rest
    shares = {token: weight / total for token, weight in zip(content["tokens"], weights)}
    first = dict(list(shares.items())[:10])
    bars = {"labels": list(first), "values": list(first.values()), "axis": "probability"}
    return Group(Text(f"  {visible(content['prompt'])} …"), _bars(bars))


def _generation(content: Mapping[str, Any]) -> Text:
    line = Text(f"  {visible(content['prompt'])}", style="dim")
    for step, style in zip(content["steps"], cycle(PIECE_STYLES)):
        line.append(visible(step["token"]), style=style)
        line.append(f" {step['probability']:.0%} ", style="dim")
    return line


def _weights(content: Mapping[str, Any], longest: int = 24) -> Table:
    groups = content["groups"]
    names = ("name", "logical_shape", "stored_shape", "dtype", "parameters", "bytes")
    rows = [[_cell(group[name]) for name in names] for group in groups[:longest]]
    if len(groups) > longest:
        rows.append([f"… and {len(groups) - longest} more", "", "", "", "", ""])
    return _table({"columns": [name.replace("_", " ") for name in names], "rows": rows})


def _is_number(cell: object) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))


def _cell(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return visible("×".join(map(str, cell)) if isinstance(cell, list) else str(cell))


def summary(rows: Sequence[Row], kill_rate: Mapping[str, int] | None) -> RenderableType:
    """The ledger: a line a claim and group of subjects that share a verdict, then what did not run
    and why, then the counts."""
    lines = [_line(group) for group in _groups(row for row in rows if row.verdict != "not run")]
    left_out: dict[str, list[Row]] = {}
    for row in rows:
        if row.verdict == "not run":
            left_out.setdefault(row.reason or "not reached", []).append(row)
    for reason, group in left_out.items():
        text = f"not run  {len(group)} on {_named(group)}: {visible(reason)}"
        lines.append(Padding(Text(text, style="dim"), (0, 0, 0, 7)))
    counts = Counter(row.verdict for row in rows)
    corrected = {row.claim.id for row in rows if row.claim.corrects and row.verdict == "verified"}
    named = {verdict: f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS if counts[verdict]}
    if known := sum(row.known for row in rows):
        named["refuted"] += f" ({'all' if known == counts['refuted'] else known} by known faults)"
    closing = ", ".join(named.values())
    lines.append(Text(f"{closing}; statements of the plan corrected: {len(corrected)}."))
    if kill_rate is not None:
        share = f"{kill_rate['red']} of {kill_rate['planted']}"
        lines.append(Text(f"Planted faults that turned their claim red: {share}."))
    return Group(*lines)


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one claim with one verdict together, in the order given."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.claim.id, row.verdict), []).append(row)
    return list(groups.values())


def _named(group: Sequence[Row], most: int | None = None) -> str:
    """The subjects of these rows, or how many they are where a list would not be read."""
    names = list(dict.fromkeys(visible(row.subject) for row in group))
    return ", ".join(names) if len(names) <= (most or FEW) else f"{len(names)} subjects"


def _line(group: Sequence[Row]) -> RenderableType:
    claim, verdict = group[0].claim, group[0].verdict
    line = Text(verdict, style=STYLES[verdict])
    line.append(f"  {claim.says}.", style="default not bold")
    unknown = [row for row in group if verdict == "refuted" and not row.known]
    line.append(f" [{_named(group, most=len(unknown))}]", style="dim not bold")
    evidence = [row.reason if verdict == "inconclusive" else row.measured for row in group]
    known = list(dict.fromkeys(visible(text) for text in evidence if text))
    if known:
        more = f" (and {len(known) - 1} more)" if len(known) > 1 else ""
        line.append(f"\n{known[0]}{more}", style="cyan not bold")
    if verdict == "refuted":
        for reason in _reasons(group):
            line.append(f"\n{reason}", style="yellow not bold")
    if claim.corrects:
        line.append(f"\nthe plan says: {claim.corrects}.", style="magenta not bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=5, justify="right")
    table.add_column()
    table.add_row(Text(claim.id), line)
    return table


def _reasons(group: Sequence[Row]) -> list[str]:
    """Why a claim is refuted and on which subjects; what nobody knew first, and never left out."""
    by_reason: dict[str, list[Row]] = {}
    for row in sorted(group, key=lambda row: row.known):
        by_reason.setdefault(row.why or "no reason was given", []).append(row)
    if len(by_reason) == 1:
        return [visible(reason) for reason in by_reason]
    told = []
    for at, (reason, rows) in enumerate(by_reason.items()):
        if not rows[0].known:
            told.append(f"{_named(rows, most=len(rows))}: {visible(reason)}")
        elif at < FEW:
            told.append(f"{_named(rows)}: {visible(reason)}")
    if left := len(by_reason) - len(told):
        told.append(f"… and {left} other known faults")
    return told


def ledger(claims: Iterable[Claim]) -> RenderableType:
    """All claims without a verdict, for reading."""
    lines = []
    for claim in claims:
        line = Text(f"{claim.id:>5}  ").append(claim.kind, style="bold").append(f"  {claim.says}")
        line.append(f"\n       plan {claim.plan}; goes red when: {claim.falsifier}", style="dim")
        if claim.corrects:
            line.append(f"\n       the plan says: {claim.corrects}", style="magenta")
        lines.append(line)
    kinds = [Text(f"{kind}: {meaning}", style="dim") for kind, meaning in KINDS.items()]
    return Group(*lines, *kinds)
