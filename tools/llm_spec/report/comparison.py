"""What changed between two runs: two models, two versions of mlx, two devices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
NOT_RUN = "not run"


@dataclass(frozen=True)
class Change:
    """One claim on one subject, in both runs or in one of them."""

    id: str
    says: str
    kind: str
    subject: str
    before: Row | None
    after: Row | None

    @property
    def what(self) -> str:
        """`verdict`, `value`, `same`, `only in A`, `only in B` or `not run`: "only" of what one run
        checked and the other did not, whether it was not run there or the run ended first."""
        a, b = (row if row and row["verdict"] != NOT_RUN else None for row in self.both)
        if a and b:
            if a["verdict"] != b["verdict"]:
                return "verdict"
            return "same" if a.get("measured") == b.get("measured") else "value"
        return "only in A" if a else "only in B" if b else NOT_RUN

    @property
    def lacking(self) -> str:
        """Of what only one run checked: the other's reason, as far as it has one."""
        absent = self.after if self.what == "only in A" else self.before
        return "not among its claims" if absent is None else absent.get("reason") or "not reached"

    @property
    def ratio(self) -> float | None:
        """The last number measured in B over that in A, where both are numbers above zero."""
        a, b = (_last_number(row) for row in self.both)
        return b / a if a and b and a > 0 and b > 0 else None

    @property
    def both(self) -> tuple[Row | None, Row | None]:
        return self.before, self.after


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    changes: list[Change]
    environments: list[tuple[str, str, str]]
    """What differs in where they ran: name, A, B."""
    pairs: dict[str, str]
    """Subjects of A that were held against one of another name in B."""
    is_one_run: bool = False
    """Whether A and B are the same run, so that nothing can differ."""

    def by(self, what: str) -> list[Change]:
        return [change for change in self.changes if change.what == what]


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], pairs: Mapping[str, str] | None = None
) -> Comparison:
    """Compare two results (what results.json holds), claim by claim and subject by subject.

    Subjects are matched by name. `pairs` names others to match, from A to B; where each run has
    just one model that the other lacks, those two are matched.
    """
    rows_a, rows_b = _by_key(before["claims"]), _by_key(after["claims"])
    pairs = dict(pairs or {}) or _lone_pair(rows_a, rows_b)
    back = {b: a for a, b in pairs.items()}
    matched = {(claim, back.get(subject, subject)): row for (claim, subject), row in rows_b.items()}
    changes = []
    for key in sorted(rows_a.keys() | matched.keys(), key=lambda key: (_order(key[0]), key[1])):
        a, b = rows_a.get(key), matched.get(key)
        known = a or b
        assert known is not None  # the key came from one of them
        subject = key[1] if key[1] not in pairs else f"{key[1]} → {pairs[key[1]]}"
        kind = known.get("kind") or "claim"
        changes.append(Change(key[0], known["says"], kind, subject, a, b))
    differences = _differences(before["environment"], after["environment"])
    return Comparison(changes, differences, pairs, is_one_run=before == after)


def by_cause(changes: Iterable[Change]) -> list[list[Change]]:
    """Changes of verdict that the same known fault explains, together; every other one alone. In
    the order of the first of each."""
    groups: dict[object, list[Change]] = {}
    for at, change in enumerate(changes):
        known = {row["reason"] for row in change.both if row and row.get("known")}
        groups.setdefault(tuple(known) or at, []).append(change)
    return list(groups.values())


def other_texts(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """A sentence if both runs scored models on texts, and not on the same; otherwise None.

    What a model needs for one passage says nothing about another.
    """
    for key, what in (("passages", "passages"), ("sources", "jobs")):
        a, b = (_fingerprints(run["claims"], key) for run in (before, after))
        if a and b and a != b:
            return f"A and B scored models on different {what}: run both with the same suite."
    return None


def _fingerprints(claims: Iterable[Row], key: str) -> set[str]:
    exhibits = [exhibit for claim in claims for exhibit in claim.get("exhibits", ())]
    return {str(exhibit[key]) for exhibit in exhibits if key in exhibit}


def _by_key(claims: Iterable[Row]) -> dict[tuple[str, str], Row]:
    return {(claim["id"], claim["subject"]): claim for claim in claims}


def _lone_pair(
    a: Mapping[tuple[str, str], Row], b: Mapping[tuple[str, str], Row]
) -> dict[str, str]:
    names_a, names_b = ({subject for _, subject in rows} for rows in (a, b))
    only_a, only_b = names_a - names_b, names_b - names_a
    return {only_a.pop(): only_b.pop()} if len(only_a) == len(only_b) == 1 else {}


def _order(claim_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in claim_id.split(".") if part.isdecimal())


def _last_number(row: Row | None) -> float | None:
    values = row.get("values") if row else None
    return values[-1] if values else None


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    flat_a, flat_b = (dict(_flat(environment)) for environment in (a, b))
    names = [name for name in {**flat_a, **flat_b} if flat_a.get(name) != flat_b.get(name)]
    return [(name, flat_a.get(name, "–"), flat_b.get(name, "–")) for name in names]


def _flat(environment: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in ("device", "dtype", "blas", "platform", "cpu_count", "partial"):
        if environment.get(name) is not None:
            yield name, str(environment[name])
    for name, version in (environment.get("versions") or {}).items():
        if version is not None:
            yield str(name), str(version)
