"""How a run ends in the terminal, on one screen: what was checked on what, what is false, what did
not run and why, and the verdict on each model that was named. The whole ledger is for the page, and
for those who ask for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from llm_spec.ledger import terminal
from llm_spec.ledger.results import VERDICTS, Row
from llm_spec.numerics.units import show_number
from llm_spec.text.untrusted import visible

SUITE = "suite"
INDENT = (0, 0, 0, 8)
WORST = 3  # refuted claims of a model that are told in full; the others by their numbers
MOST = 6
"""So many subjects of one kind, and so many inconclusive claims, are named one by one."""


def closing(
    rows: Sequence[Row],
    kinds: Mapping[str, str],
    kill_rate: Mapping[str, int | str] | None,
    written: Sequence[Path],
    judged: Sequence[Mapping[str, Any]] = (),
) -> RenderableType:
    """The end of a run.

    `kinds` says what each subject is ("model", "tokenizer only"); `kill_rate` counts the planted
    faults and the red ones among them; `written` are the files that hold the rest; `judged` are the
    verdicts on the models that were named, as `judgement.judgement` gives them.
    """
    named = {each["model"] for each in judged}
    parts: list[RenderableType] = []
    for title, lines in {
        "checked": _checked(rows, kinds),
        "the plan, corrected": _corrected(rows),
        "not run": _left_out(rows),
        "inconclusive": _inconclusive(rows),
        "mended": _mended(rows),
        "refuted": _refuted([row for row in rows if row.subject not in named]),
    }.items():
        if lines:
            parts += [Text(title, style="bold"), *lines]
    verdicts = [line for each in judged for line in verdict_on(each)]
    return Group(*parts, *_counts(rows, kill_rate), _files(written), *verdicts)


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


def _mended(rows: Sequence[Row]) -> Sequence[RenderableType]:
    """What known faults say no more of: news for the project, and no failure for its users."""
    found = terminal.groups(row for row in rows if row.mended)
    return [
        _one_line(f"{group[0].claim.id:>5}  {visible(group[0].reason or '')}") for group in found
    ]


def _refuted(rows: Sequence[Row]) -> Sequence[RenderableType]:
    """Every new refutation with its evidence. Known faults are only counted."""
    new = [row for row in rows if row.verdict == "refuted" and not row.known]
    return [terminal.entry(group) for group in terminal.groups(new)]


def verdict_on(judged: Mapping[str, Any]) -> Sequence[RenderableType]:
    """The verdict on one model, in about ten lines, as `judgement.judgement` gives it."""
    verdict, refuted = judged["verdict"], judged["refuted"]
    style = terminal.STYLES[verdict]
    line = Text(f"verdict on {visible(judged['model'])}: ", style="bold").append(verdict, style)
    if judged["known"]:
        line.append(" by known faults of mlx-lm alone", style=style)
    counts = ", ".join(f"{count} {name}" for name, count in judged["counts"].items())
    line.append(f"  ({counts or 'no claim'})", style="not bold")
    lines: list[RenderableType] = [Text(), line]
    if verdict == "not run":
        lines.append(Text("  No claim about it could be decided, which is no verdict.", "yellow"))
    if judged.get("itself"):
        lines.append(
            Text("  It was held to itself (--reference): that finds no difference.", "yellow")
        )
    if judged["unreached"]:
        told = f"  The run ended early, before {judged['unreached']} of them: a part of a verdict."
        lines.append(Text(told, "yellow"))
    for entry in refuted[:WORST]:
        lines += _how_refuted(entry)
    if others := [entry["claim"] for entry in refuted[WORST:]]:
        lines.append(_one_line(f"  also refuted: {', '.join(others)}"))
    if near := [f"{e['claim']} at {e['ratio']:.0%}" for e in judged["nearest"]]:
        lines.append(_one_line(f"  verified, nearest to the bound: {', '.join(near)}", "dim"))
    if judged["again"]:
        lines.append(Padding(Text(f"evidence: {visible(judged['again'])}"), (0, 0, 0, 2)))
    return lines


def _how_refuted(entry: Mapping[str, Any]) -> Sequence[RenderableType]:
    found = entry["found"] or ""
    if entry["figure"] and entry["ratio"]:
        bound, times = show_number(entry["bound"]), show_number(entry["ratio"])
        found = f"{entry['figure']}: {times} times its bound of {bound}"
    what = entry["remedy"] or f"It looks like this: {entry['looks_like']}."
    return [
        _one_line(f"{entry['claim']:>6}  {entry['says']}."),
        Padding(Text(visible(found), "yellow"), INDENT),
        Padding(Text(what, "cyan"), INDENT),
    ]


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
