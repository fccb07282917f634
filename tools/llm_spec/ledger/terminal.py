"""Exhibits and the ledger as text for a terminal.

Everything is built from `rich.text.Text`, never from markup, and passes `visible` first: a
vocabulary may hold control sequences that a terminal would obey.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_spec.ledger import claims as ledgers
from llm_spec.ledger.claims import Claim
from llm_spec.ledger.kinds import KINDS
from llm_spec.ledger.results import Row
from llm_spec.text.untrusted import visible

STYLES = {"verified": "green", "refuted": "bold red", "inconclusive": "yellow", "not run": "dim"}
FEW = 8
"""At most so many subjects of a claim and reasons are shown; the report has them all."""


def render(renderable: RenderableType, width: int, colour: bool) -> str:
    """Text for a terminal of `width` columns, with colour codes where `colour`."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, highlight=False, emoji=False
    )
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)  # as given three lines above
    return console.file.getvalue()


def heading(claim: str, subject: str) -> RenderableType:
    """What stands above the exhibits of one claim on one subject."""
    return Text(f"── claim {claim} on {visible(subject)} ──", style="bold cyan")


def exhibit(content: Mapping[str, Any]) -> RenderableType:
    """One exhibit as a rich renderable; kinds that need a page are named, not drawn."""
    kind = KINDS.get(content["kind"])
    title = Text(visible(content["title"]), style="bold")
    if kind is None or kind.terminal is None:
        return Group(title, Text(f"  ({content['kind']}: see the report, --report report.html)"))
    return Group(title, kind.terminal(content))


def ledger_of(rows: Iterable[Row]) -> RenderableType:
    """The ledger of a run: one entry per claim and verdict, with the subjects that share it."""
    ran = groups(row for row in rows if row.verdict != "not run")
    return Group(*[entry(group) for group in ran])


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one claim with one verdict together, in the order given."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.claim.id, row.verdict), []).append(row)
    return list(found.values())


def named(group: Sequence[Row], most: int | None = None) -> str:
    """The subjects of these rows, or how many they are where a list would not be read."""
    names = list(dict.fromkeys(visible(row.subject) for row in group))
    return ", ".join(names) if len(names) <= (most or FEW) else f"{len(names)} subjects"


def entry(group: Sequence[Row]) -> RenderableType:
    """One claim with one verdict: on which subjects, what was measured, and why it is red."""
    claim, verdict = group[0].claim, group[0].verdict
    line = Text(verdict, style=STYLES[verdict])
    line.append(f"  {claim.says}.", style="default not bold")
    unknown = [row for row in group if verdict == "refuted" and not row.known]
    line.append(f" [{named(group, most=len(unknown))}]", style="dim not bold")
    evidence = [row.reason if verdict == "inconclusive" else row.seen for row in group]
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
    """Why a claim is refuted and on which subjects; new faults come first and are all shown."""
    by_reason: dict[str, list[Row]] = {}
    for row in sorted(group, key=lambda row: row.known):
        by_reason.setdefault(row.why or "no reason was given", []).append(row)
    if len(by_reason) == 1:
        return [visible(reason) for reason in by_reason]
    told = []
    for at, (reason, rows) in enumerate(by_reason.items()):
        if not rows[0].known:
            told.append(f"{named(rows, most=len(rows))}: {visible(reason)}")
        elif at < FEW:
            told.append(f"{named(rows)}: {visible(reason)}")
    if left := len(by_reason) - len(told):
        told.append(f"… and {left} other known faults")
    return told


def ledger(claims: Iterable[Claim]) -> RenderableType:
    """All claims without a verdict, for reading."""
    lines = []
    for claim in claims:
        line = Text(f"{claim.id:>5}  ").append(claim.kind, style="bold").append(f"  {claim.says}")
        line.append(f"\n       plan {claim.plan}; turns red when: {claim.falsifier}", style="dim")
        if claim.corrects:
            line.append(f"\n       the plan says: {claim.corrects}", style="magenta")
        lines.append(line)
    kinds = [Text(f"{kind}: {meaning}", style="dim") for kind, meaning in ledgers.KINDS.items()]
    return Group(*lines, *kinds)
