"""A comparison of two runs, for the terminal and as a page."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_spec.ledger.results import told, write_atomically
from llm_spec.report.comparison import NOT_RUN, Change, Comparison, Row, by_cause
from llm_spec.report.page import STYLES, asset, environment, policy
from llm_spec.text.untrusted import all_visible, visible

TITLES = {
    "verdict": "Verdict changed",
    "value": "Value changed",
    "only in A": "Checked only in A",
    "only in B": "Checked only in B",
}
COUNTED = ("only in A", "only in B")
"""What a terminal counts reason by reason: an interrupted run lacks hundreds of claims."""
_STYLES = {"verified": "green", "refuted": "bold red", "inconclusive": "yellow", "not run": "dim"}
ONE_RUN = "A and B are the same run, held against itself: nothing can differ."
_LISTED = 40


def as_text(comparison: Comparison, names: Sequence[str]) -> RenderableType:
    """What changed, for a terminal; what is the same is only counted."""
    lines: list[RenderableType] = [Text(f"A  {names[0]}\nB  {names[1]}")]
    if comparison.is_one_run:
        lines.append(Text(ONE_RUN, style="yellow"))
    for name, a, b in comparison.environments:
        lines.append(Text(f"   {visible(name)}: {visible(a)} → {visible(b)}", style="dim"))
    for what, title in TITLES.items():
        changes = comparison.by(what)
        if changes:
            lines.append(Text(f"\n{title} ({len(changes)})", style="bold"))
        if what in COUNTED:
            reasons = Counter(visible(change.lacking) for change in changes)
            lines += [Text(f"{n:>6}  {reason}", style="dim") for reason, n in reasons.most_common()]
            continue
        groups = by_cause(changes)
        for group in groups[:_LISTED]:
            lines.append(_line(group[0]))
            if len(group) > 1:
                lines.append(Text(f"        {_the_same(group)}", style="dim"))
        if left := sum(map(len, groups[_LISTED:])):
            lines.append(Text(f"       and {left} more", style="dim"))
    same, unchecked = (len(comparison.by(what)) for what in ("same", NOT_RUN))
    lines.append(Text(f"\n{same} the same, {unchecked} not run in either."))
    return Group(*lines)


def _line(change: Change) -> RenderableType:
    line = Text(f"{visible(change.says)} ").append(f"[{visible(change.subject)}]", style="dim")
    line.append("\n")
    for at, row in enumerate(row for row in change.both if row is not None):
        line.append(" → " if at else "")
        if change.what != "value":
            line.append(row["verdict"], style=_STYLES[row["verdict"]]).append(" ")
        line.append(visible(_seen(row), 160), style="cyan")
    if change.ratio is not None and change.what == "value":
        line.append(f"  (× {change.ratio:.3g})", style="dim")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=6, justify="right")
    table.add_column()
    table.add_row(Text(visible(change.id)), line)
    return table


def _the_same(group: Sequence[Change]) -> str:
    """What else the fault of the first of them explains."""
    claims = dict.fromkeys(change.id for change in group[1:])  # each once, in their order
    subjects = {change.subject for change in group}
    about = f" on {len(subjects)} subjects" if len(subjects) > 1 else ""
    return f"the same fault{about}: {len(group) - 1} more, claims {visible(', '.join(claims), 120)}"


def _seen(row: Row) -> str:
    """What was measured; where nothing was verified, first the reason."""
    measured, reason = row.get("measured"), told(row.get("reason"), row.get("known", False))
    first, second = (measured, reason) if row["verdict"] == "verified" else (reason, measured)
    return first or second or ""


def write_comparison(comparison: Comparison, names: Sequence[str], path: Path) -> None:
    """Write the comparison as one HTML file, whole or not at all. Raises OSError."""
    template = environment().get_template("compare.html")
    html = template.render(
        names=[visible(name) for name in names],
        environments=[tuple(map(visible, row)) for row in comparison.environments],
        groups=[(title, all_visible(_rows(comparison.by(what)))) for what, title in TITLES.items()],
        same=all_visible(_rows(comparison.by("same"))),
        style="\n".join(asset(f"{name}.css") for name in STYLES),
        notice=ONE_RUN if comparison.is_one_run else "",
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
            "counted": change.what in COUNTED,
            "sides": [
                row and {"verdict": row["verdict"], "seen": _seen(row)} for row in change.both
            ],
        }
        for change in changes
    ]
