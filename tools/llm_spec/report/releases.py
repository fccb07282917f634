"""Sweeps with several releases of mlx-lm: what each breaks, what the next mended, and bisection.

A sweep is what `pytest specs/ --architectures --report X.json` wrote. A *breakage* is one claim
that is refuted on one architecture, whether its head is tied or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from packaging.version import Version

from llm_spec.text.untrusted import one_line

BEGIN, END = "<!-- written by llm-spec releases -->", "<!-- end -->"
BUILT = "9.10"  # the claim that the model is built from its configuration
NAMED, LENGTH = 3, 160  # architectures that a line names, and characters of what it quotes
Key = tuple[str, str]  # claim and architecture


@dataclass(frozen=True)
class Sweep:
    """What became of every claim on every architecture with one release."""

    mlx_lm: Version
    mlx: str
    verdicts: Mapping[Key, str]
    """The worst verdict of the architecture's models."""
    seen: Mapping[Key, str]
    """What was measured where the claim is refuted."""
    lacking: int
    """Claims that did not run because the release lacks what they ask for."""

    @property
    def architectures(self) -> set[str]:
        return {architecture for _, architecture in self.verdicts}

    @property
    def built(self) -> set[str]:
        return {a for (id_, a), found in self.verdicts.items() if (id_, found) == (BUILT, VERIFIED)}

    @property
    def broken(self) -> set[Key]:
        return {key for key, found in self.verdicts.items() if found == REFUTED}


REFUTED, VERIFIED = "refuted", "verified"
WORST = (REFUTED, "inconclusive", VERIFIED, "not run")


def sweep_in(results: Mapping[str, Any]) -> Sweep:
    """The sweep that results.json holds; rows of models that are no architecture are left out."""
    versions = results["environment"]["versions"]
    verdicts: dict[Key, str] = {}
    seen: dict[Key, str] = {}
    lacks = f"mlx-lm {versions['mlx-lm']} has no "
    lacking = 0
    for row in results["claims"]:
        name, _, kind = row["subject"].partition(" (tiny")
        if not kind:
            continue
        key = (row["id"], name)
        verdicts[key] = min(row["verdict"], verdicts.get(key, WORST[-1]), key=WORST.index)
        lacking += lacks in (row["reason"] or "")
        if row["verdict"] == REFUTED:
            said = one_line(row["measured"] or row["reason"] or "", LENGTH)
            seen[key] = min(said, seen.get(key, said), key=len)
    return Sweep(Version(versions["mlx-lm"]), versions["mlx"], verdicts, seen, lacking)


def as_markdown(runs: Iterable[Mapping[str, Any]]) -> str:
    """Tables of these runs (what results.json holds), and of each step from one to the next."""
    runs = list(runs)
    says = {row["id"]: row["says"] for run in runs for row in run["claims"]}
    sweeps = sorted(map(sweep_in, runs), key=lambda sweep: sweep.mlx_lm)
    parts = [_table(COLUMNS, (_summary(sweep) for sweep in reversed(sweeps)))]
    for before, after in reversed(list(pairwise(sweeps))):
        parts += [f"## mlx-lm {before.mlx_lm} to {after.mlx_lm}", _architectures(before, after)]
        for what, keys, where in (
            ("Mended", mended(before, after), before),
            ("Broke", mended(after, before), after),
        ):
            parts.append(f"{what}: {len(keys) or 'nothing'}.")
            if keys:
                columns = ("claim", "architectures", f"seen with {where.mlx_lm}")
                parts.append(_table(columns, _by_cause(keys, where, says)))
    return "\n\n".join(part for part in parts if part)


def mended(broken: Sweep, whole: Sweep) -> set[Key]:
    """Breakages of one sweep that are verified in another."""
    return {key for key in broken.broken if whole.verdicts.get(key) == VERIFIED}


def within_markers(page: str, written: str) -> str:
    """`page` with `written` between its two markers. Raises ValueError where it has none."""
    before, begins, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        raise ValueError(f"it has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{written}\n\n{END}{after}"


def first_alike(
    releases: Sequence[str], verdict: Callable[[str], str]
) -> tuple[str, str, str, str] | None:
    """The first release that is judged as the last one is, by halves: the release before it, its
    verdict, the release, its verdict. None where the first is judged as the last.

    `releases` are in their order; `verdict` is asked of as few as tell, on the way from the last
    verdict that differs to the newest as if there was one change only.
    """
    newest, oldest = verdict(releases[-1]), verdict(releases[0])
    if newest == oldest:
        return None
    low, high, other = 0, len(releases) - 1, oldest
    while high - low > 1:
        middle = (low + high) // 2
        found = verdict(releases[middle])
        if found == newest:
            high = middle
        else:
            low, other = middle, found
    return releases[low], other, releases[high], newest


COLUMNS = (
    "mlx-lm", "mlx", "architectures", "that are built", "breakages", "raise an exception",
    "end the process", "of other kinds", "not run: the release lacks a part",
)  # fmt: skip


def _summary(sweep: Sweep) -> list[object]:
    kinds = Counter(_kind(sweep.seen[key]) for key in sweep.broken)
    counts = [kinds[kind] for kind in ("raised", "crashed", "other")]
    names, built = sweep.architectures, sweep.built
    broken = len(sweep.broken)
    return [sweep.mlx_lm, sweep.mlx, len(names), len(built), broken, *counts, sweep.lacking]


def _kind(seen: str) -> str:
    return next((kind for kind in ("raised", "crashed") if kind in seen.split(" = ", 1)), "other")


def _architectures(before: Sweep, after: Sweep) -> str:
    new, gone = (
        after.architectures - before.architectures,
        before.architectures - after.architectures,
    )
    told = (("New", new), ("Gone", gone))
    return " ".join(f"{what}: {', '.join(sorted(names))}." for what, names in told if names)


def _by_cause(keys: Iterable[Key], where: Sweep, says: Mapping[str, str]) -> list[list[str]]:
    """A row per exception that several claims meet, and one per claim for all else."""
    claims_of: dict[str, set[str]] = {}
    for key in keys:
        claims_of.setdefault(where.seen[key], set()).add(key[0])
    rows: dict[str, list[Key]] = {}
    for key in sorted(keys, key=lambda key: (Version(key[0]), key[1])):
        said = where.seen[key]
        shared = _kind(said) == "raised" and len(claims_of[said]) > 1
        rows.setdefault(said if shared else key[0], []).append(key)
    return [_row(group, where, says) for group in rows.values()]


def _row(keys: Sequence[Key], where: Sweep, says: Mapping[str, str]) -> list[str]:
    ids = list(dict.fromkeys(id_ for id_, _ in keys))
    names = list(dict.fromkeys(architecture for _, architecture in keys))
    claim = f"{ids[0]} {says[ids[0]]}"
    if len(ids) > 1:
        claim = f"{len(ids)} claims: {', '.join(ids)}"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    shortest = min((where.seen[key] for key in keys), key=len)
    return [claim, ", ".join(names[:NAMED]) + more, f"`{shortest}`"]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    cells.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
