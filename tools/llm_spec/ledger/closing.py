"""How a run ends in the terminal, on one screen: what was checked on what, what is false, what did
not run and why. The whole ledger is for the page, and for those who ask for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from llm_spec.ledger import terminal
from llm_spec.ledger.results import VERDICTS, Row
from llm_spec.text.untrusted import visible

SUITE = "suite"
MOST = 6
"""So many subjects of one kind, and so many inconclusive claims, are named one by one."""


def closing(
    rows: Sequence[Row],
    kinds: Mapping[str, str],
    kill_rate: Mapping[str, int | str] | None,
    written: Sequence[Path],
) -> RenderableType:
    """The end of a run.

    `kinds` says what each subject is ("model", "tokenizer only"); `kill_rate` counts the planted
    faults and the red ones among them; `written` are the files that hold the rest.
    """
    parts: list[RenderableType] = []
    for title, lines in {
        "checked": _checked(rows, kinds),
        "the plan, corrected": _corrected(rows),
        "not run": _left_out(rows),
        "inconclusive": _inconclusive(rows),
        "refuted": _refuted(rows),
    }.items():
        if lines:
            parts += [Text(title, style="bold"), *lines]
    return Group(*parts, *_counts(rows, kill_rate), _files(written))


def _checked(rows: Sequence[Row], kinds: Mapping[str, str]) -> Sequence[RenderableType]:
    """Per kind of subject: which they are, and how many claims were decided on them."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        if row.verdict != "not run":
            what = "the suite itself" if row.subject == SUITE else kinds.get(row.subject, "model")
            by_kind.setdefault(what, []).append(row)
    lines = []
    for what in sorted(by_kind, key=lambda what: (what != "model", what)):
        ran = by_kind[what]
        on = "" if ran[0].subject == SUITE else f": {terminal.named(ran, most=MOST)}"
        count = len({row.claim.id for row in ran})
        lines.append(_one_line(f"{count:>5} claim{'s' * (count > 1)} on {what}{on}"))
    return lines


def _corrected(rows: Sequence[Row]) -> Sequence[RenderableType]:
    found = {r.claim.id: r.claim for r in rows if r.claim.corrects and r.verdict == "verified"}
    return [_one_line(f"{claim.id:>5}  {claim.says}.", "magenta") for claim in found.values()]


def _left_out(rows: Sequence[Row]) -> Sequence[RenderableType]:
    reasons = Counter(row.reason or "not reached" for row in rows if row.verdict == "not run")
    lines = [_one_line(f"{count:>5}  {visible(reason)}", "dim")
             for reason, count in reasons.most_common(MOST)]  # fmt: skip
    if len(reasons) > MOST:
        left = sum(reasons.values()) - sum(count for _, count in reasons.most_common(MOST))
        lines.append(_one_line(f"{left:>5}  for {len(reasons) - MOST} other reasons", "dim"))
    return lines


def _inconclusive(rows: Sequence[Row]) -> Sequence[RenderableType]:
    found = terminal.groups(row for row in rows if row.verdict == "inconclusive")
    lines = [
        _one_line(f"{group[0].claim.id:>5}  {visible(group[0].reason or 'inside the noise')}")
        for group in found[:MOST]
    ]
    if len(found) > MOST:
        lines.append(_one_line(f"       and {len(found) - MOST} other claims"))
    return lines


def _refuted(rows: Sequence[Row]) -> Sequence[RenderableType]:
    """Every new refutation with its evidence. Known faults are only counted."""
    new = [row for row in rows if row.verdict == "refuted" and not row.known]
    return [terminal.entry(group) for group in terminal.groups(new)]


def _counts(
    rows: Sequence[Row], kill_rate: Mapping[str, int | str] | None
) -> Sequence[RenderableType]:
    counts = Counter(row.verdict for row in rows)
    told = {verdict: f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS if counts[verdict]}
    if known := sum(row.known for row in rows):
        told["refuted"] += f" ({'all' if known == counts['refuted'] else known} by known faults)"
    lines: list[RenderableType] = [Text(f"{', '.join(told.values())}.", style="bold")]
    if kill_rate is not None:
        share = f"{kill_rate['red']} of {kill_rate['planted']}"
        before = (
            f", {kill_rate['before']} of them in an earlier run" if "before" in kill_rate else ""
        )
        lines.append(Text(f"Planted faults that turned their claim red: {share}{before}."))
    return lines


def _files(written: Sequence[Path]) -> Text:
    if written:
        return Text(f"All of it: {', '.join(map(str, written))}.")
    return Text("All of it: --ledger prints it, --report report.html draws it.", style="dim")


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
