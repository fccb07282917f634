"""A comparison of two runs, for the terminal and as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tools.compare import Change, Comparison
from tools.report.page import STYLES, asset, environment, policy, visible
from tools.report.text import shown
from tools.results import write_atomically

TITLES = {
    "verdict": "Verdict changed",
    "value": "Value changed",
    "only in A": "Only in A",
    "only in B": "Only in B",
}
_STYLES = {"verified": "green", "refuted": "bold red", "inconclusive": "yellow", "not run": "dim"}
_LISTED = 40


def as_text(comparison: Comparison, names: Sequence[str]) -> RenderableType:
    """What changed, for a terminal; what is the same is only counted."""
    lines: list[Text] = [Text(f"A  {names[0]}\nB  {names[1]}")]
    for name, a, b in comparison.environments:
        lines.append(Text(f"   {shown(name)}: {shown(a)} → {shown(b)}", style="dim"))
    for what, title in TITLES.items():
        changes = comparison.by(what)
        if changes:
            lines.append(Text(f"\n{title} ({len(changes)})", style="bold"))
            lines += [_line(change) for change in changes[:_LISTED]]
        if len(changes) > _LISTED:
            lines.append(Text(f"       and {len(changes) - _LISTED} more", style="dim"))
    lines.append(Text(f"\n{len(comparison.by('same'))} the same."))
    return Group(*lines)


def _line(change: Change) -> Text:
    line = Text(f"{shown(change.id):>6}  {shown(change.says)} ")
    line.append(f"[{shown(change.subject)}]", style="dim")
    line.append("\n        ")
    for at, row in enumerate(row for row in change.both if row is not None):
        line.append(" → " if at else "")
        if change.what != "value":
            line.append(row["verdict"], style=_STYLES[row["verdict"]]).append(" ")
        line.append(shown(row.get("measured") or row.get("reason") or "", 160), style="cyan")
    if change.ratio is not None and change.what == "value":
        line.append(f"  (× {change.ratio:.3g})", style="dim")
    return line


def write_comparison(comparison: Comparison, names: Sequence[str], path: Path) -> None:
    """Write the comparison as one HTML file, whole or not at all. Raises OSError."""
    template = environment().get_template("compare.html")
    html = template.render(
        names=[shown(name) for name in names],
        environments=[tuple(map(shown, row)) for row in comparison.environments],
        groups=[(title, visible(_rows(comparison.by(what)))) for what, title in TITLES.items()],
        same=visible(_rows(comparison.by("same"))),
        style="\n".join(asset(f"{name}.css") for name in STYLES),
        policy=policy(),
    )
    write_atomically(path, html)


def _rows(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {
            "id": change.id,
            "says": change.says,
            "subject": change.subject,
            "ratio": change.ratio,
            "sides": [
                row
                and {"verdict": row["verdict"], "seen": row.get("measured") or row.get("reason")}
                for row in change.both
            ],
        }
        for change in changes
    ]
