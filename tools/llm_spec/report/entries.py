"""The ledger as the report shows it: one entry per claim, one result per subject."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llm_spec.ledger.results import PROVED_BEFORE, VERDICTS, beside_expected, told
from llm_spec.text.untrusted import visible

_FIGURES = re.compile(r"\d{2,}")
FEW = 6
"""Up to so many subjects with one verdict are listed one by one; more are grouped."""
_WORST = ("refuted", "inconclusive", "verified", "not run")


@dataclass(frozen=True)
class Result:
    """The result of one claim on one subject."""

    subject: str
    verdict: str
    measured: str | None
    expected: str | None
    reason: str | None
    known: bool = False
    """Whether it is refuted by documented faults of someone else's alone."""

    @property
    def why(self) -> str | None:
        """The reason as it is shown."""
        return told(self.reason, self.known)

    @property
    def seen(self) -> str | None:
        """What was measured, beside what it should be."""
        return beside_expected(self.measured, self.expected)


@dataclass(frozen=True)
class Finding:
    """One verdict and the words that go with it, on one subject or on many."""

    subjects: list[str]
    verdict: str
    measured: str | None
    expected: str | None
    reason: str | None
    others: int = 0
    """How many other values were measured on these subjects; the first is shown."""


@dataclass
class Entry:
    """One claim and its results."""

    id: str
    says: str
    kind: str
    corrects: str | None
    falsifier: str | None
    results: list[Result] = field(default_factory=list)

    @property
    def experiment(self) -> int:
        head = self.id.partition(".")[0]
        return int(head) if head.isdecimal() else 0

    @property
    def anchor(self) -> str:
        return anchor(self.id)

    @property
    def verdict(self) -> str:
        """The worst over all subjects; a claim that ran nowhere is not run."""
        verdicts = {result.verdict for result in self.results}
        return next(verdict for verdict in _WORST if verdict in verdicts)

    @property
    def verdicts(self) -> list[str]:
        return list(dict.fromkeys(result.verdict for result in self.results))

    @property
    def headline(self) -> Result:
        """Of the results that decide the verdict, the one that the claim's own words are about."""
        return self.tallies[0][1][0]

    def on(self, subject: str | None) -> Result:
        """Its result on this subject; the headline where it has none."""
        return next((r for r in self.results if r.subject == subject), self.headline)

    @property
    def known(self) -> bool:
        """Whether it is refuted only where that is a documented fault of someone else's."""
        refuted = [result for result in self.results if result.verdict == "refuted"]
        return bool(refuted) and all(result.known for result in refuted)

    @property
    def proved_before(self) -> bool:
        """Whether it ran nowhere, since it was proved with the same code before."""
        reasons = [result.reason for result in self.results]
        return self.verdict == "not run" and PROVED_BEFORE in reasons

    @property
    def refuted_on(self) -> int:
        """On how many subjects it is refuted."""
        return sum(result.verdict == "refuted" for result in self.results)

    @property
    def ran_on(self) -> int:
        """On how many subjects it ran."""
        return sum(result.verdict != "not run" for result in self.results)

    @cached_property
    def tallies(self) -> list[tuple[str, list[Result]]]:
        """Results grouped by verdict, worst first; in each, first what the claim's
        words are about."""
        told = sorted(self.results, key=lambda result: _named_by(self.says, result), reverse=True)
        groups = [(v, [r for r in told if r.verdict == v]) for v in _WORST]
        return [(verdict, results) for verdict, results in groups if results]

    @property
    def rows(self) -> list[Finding]:
        """All results, worst first: a row each where they are few, else a row for those alike."""
        return [row for verdict, group in self.tallies for row in _rows(verdict, group)]

    @property
    def findings(self) -> list[tuple[str, list[Result]]]:
        """The tallies without what was not run, unless nothing was."""
        ran = [tally for tally in self.tallies if tally[0] != "not run"]
        return ran or self.tallies


def _named_by(says: str, result: Result) -> tuple[int, int]:
    """How well a claim's words fit a result: the figures they share, then the model they name.

    "151,643 merged tokens in Qwen3" is about the result of qwen3 that measured 151643, though the
    claim was checked on other models as well.
    """
    numbers = set(_FIGURES.findall(says.replace(",", "")))
    measured = set(_FIGURES.findall((result.measured or "").replace(",", "")))
    words, name = _letters(says), _letters(result.subject)
    known = next((n for n in range(len(name), 3, -1) if name[:n] in words), 0)
    return len(numbers & measured), known


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


def _rows(verdict: str, results: list[Result]) -> list[Finding]:
    if len(results) <= FEW:
        return [Finding([r.subject], verdict, r.measured, r.expected, r.why) for r in results]
    alike: dict[str | None, list[Result]] = {}
    for result in results:
        alike.setdefault(result.why, []).append(result)
    return [
        Finding(
            [result.subject for result in group],
            verdict,
            group[0].measured,
            group[0].expected,
            why,
            others=len({result.measured for result in group}) - 1,
        )
        for why, group in alike.items()
    ]


def anchor(claim_id: str) -> str:
    """The end of the link to a claim."""
    return "".join(char if char.isalnum() or char in ".-" else "-" for char in claim_id)


def entries(claims: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """One entry a claim, in the order of the results; claims about the suite itself come last."""
    found: dict[str, Entry] = {}
    for claim in claims:
        entry = found.setdefault(
            claim["id"],
            Entry(
                id=visible(claim["id"], 40),
                says=visible(claim["says"], 2000),
                kind=visible(claim.get("kind") or "claim", 40),
                corrects=_maybe(claim.get("corrects")),
                falsifier=_maybe(claim.get("falsifier")),
            ),
        )
        entry.results.append(
            Result(
                subject=visible(claim["subject"], 120),
                verdict=claim["verdict"],
                measured=_maybe(claim.get("measured")),
                expected=_maybe(claim.get("expected")),
                reason=_maybe(claim.get("reason")),
                known=claim.get("known", False),
            )
        )
    return sorted(found.values(), key=lambda entry: entry.experiment == 0)


def _maybe(text: str | None) -> str | None:
    return visible(text, 4000, lines=True) if text else None


def counts(ledger: Iterable[Entry]) -> dict[str, int]:
    """Claims by verdict; corrections that hold, known faults, and what was proved before with the
    same code, are counted once more."""
    ledger = list(ledger)
    tally = Counter(entry.verdict for entry in ledger)
    counted = {verdict: tally[verdict] for verdict in VERDICTS}
    return counted | {
        "corrections": sum(bool(e.corrects) and e.verdict == "verified" for e in ledger),
        "known": sum(entry.known for entry in ledger),
        "proved": sum(entry.proved_before for entry in ledger),
    }


def subjects(ledger: Iterable[Entry]) -> list[str]:
    """All subjects, in the order in which they were met."""
    return list(dict.fromkeys(r.subject for entry in ledger for r in entry.results))


def models(ledger: Iterable[Entry]) -> list[str]:
    """Subjects about which something was found out; not the suite, when it checks itself."""
    ran = (r for entry in ledger if entry.experiment != 0 for r in entry.results)
    return list(dict.fromkeys(r.subject for r in ran if r.verdict != "not run"))
