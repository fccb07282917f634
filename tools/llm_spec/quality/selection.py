"""An assistant chosen by a rule, from what runs found out about the candidates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SCHEMAS = (1, 2)  # of results that hold candidates in the same form
KINDS = ("candidates", "assistant")  # exhibits that hold candidates
DONE = "job done"
REPLY_TOKENS = 150
WITHIN_S = 10.0


class Refused(ValueError):
    """The results cannot be compared; the message is one sentence that says why."""


@dataclass(frozen=True)
class Candidate:
    """One model and what one run found out about it. Times in seconds, sizes in bytes."""

    name: str
    passed: int
    tried: int
    low: float
    high: float
    fits: bool
    reply_s: float | None
    tokens_per_s: float | None
    peak_bytes: int | None
    control: bool
    licence: str | None = None
    languages: tuple[str, ...] = ()
    context: int | None = None
    n_bytes: int | None = None
    first_token_s: float | None = None
    other_programs: float | None = None
    """The share of the processor, 0 to 1, that other programs used while it answered."""
    replies: tuple[tuple[str, str], ...] = ()
    """The first reply to each job, by the job's name."""

    @property
    def rate(self) -> float:
        return self.passed / self.tried

    @property
    def jobs(self) -> str:
        """Its jobs in words, with the 95 % interval of the share."""
        return f"{self.passed} of {self.tried} jobs ({self.low:.0%} to {self.high:.0%})"


@dataclass(frozen=True)
class Choice:
    """What is recommended (None: nothing), the rule that says so, and its reasons in sentences."""

    recommended: str | None
    rule: str
    reasons: tuple[str, ...]

    @property
    def why(self) -> str:
        return " ".join(self.reasons)


def choose(
    candidates: Sequence[Candidate], within_s: float = WITHIN_S, tokens: int = REPLY_TOKENS
) -> Choice:
    """Recommend one candidate: quality first among those that fit and answer in time.

    Controls are never recommended, and a control that does a job spoils the comparison: criteria
    that a constant answer meets say nothing about a model.
    """
    rule = (
        f"Of the models that fit in memory and write {tokens} tokens within {within_s:g} s, the "
        "one that does the largest share of the jobs; among equals, the faster."
    )
    if fooled := [each for each in candidates if each.control and each.passed]:
        names = ", ".join(each.name for each in fooled)
        return Choice(None, rule, (f"{names}: a control did jobs, so the criteria judge nothing.",))
    reasons = []
    eligible = []
    for each in candidates:
        if each.control:
            continue
        if not each.fits:
            reasons.append(f"{each.name} does not fit.")
        elif each.reply_s is None:
            reasons.append(f"{each.name} was not timed.")
        elif each.reply_s > within_s:
            reasons.append(f"{each.name} takes {each.reply_s:.1f} s for {tokens} tokens.")
        elif each.passed == 0:
            reasons.append(f"{each.name} did none of its {each.tried} jobs.")
        else:
            eligible.append(each)
    eligible.sort(key=lambda each: (-each.rate, each.reply_s))
    if not eligible:
        return Choice(None, rule, (*reasons, "So no model can be recommended."))
    best, *others = eligible
    reasons.insert(0, f"{best.name} did {best.jobs}, and replies in {best.reply_s:.1f} s.")
    for each in others:
        doubt = "" if each.high < best.low else "; so few answers do not tell the two apart"
        reasons.append(f"{each.name} did {each.jobs} in {each.reply_s:.1f} s{doubt}.")
    return Choice(best.name, rule, tuple(reasons))


def candidates_in(paths: Sequence[Path], tokens: int = REPLY_TOKENS) -> list[Candidate]:
    """Read every candidate of some results files; controls once each.

    A candidate fits, for it ran; `within_memory` asks about another machine.

    Raises Refused, with one sentence, for a file that cannot be read, another schema, a
    file without candidates, answers to other jobs than those of the first file, or one name for
    two candidates.
    """
    found: dict[str, Candidate] = {}
    asked: dict[str, Path] = {}
    for path in paths:
        try:
            here = [
                (exhibit["sources"], _candidate(entry, tokens))
                for claim in _read(path)["claims"]
                for exhibit in claim["exhibits"]
                if exhibit["kind"] in KINDS
                for entry in exhibit["candidates"]
            ]
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            if isinstance(error, Refused):
                raise
            raise Refused(f"{path} is not a results file of this suite.") from None
        if not here:
            raise Refused(
                f"{path} holds no candidates: `llm-spec choose --measure` makes such files."
            )
        for sources, candidate in here:
            asked.setdefault(sources, path)
            if len(asked) > 1:
                other = next(iter(asked.values()))
                raise Refused(f"{path} and {other} hold answers to different jobs.")
            if candidate.name in found and not candidate.control:
                raise Refused(f"{candidate.name} is in these results twice: give one of them.")
            found[candidate.name] = candidate
    return list(found.values())


def within_memory(candidates: Sequence[Candidate], budget: int) -> list[Candidate]:
    """Say anew who fits: the models whose peak memory is known to be at most `budget` bytes."""
    return [
        each
        if each.control
        else replace(each, fits=each.peak_bytes is not None and each.peak_bytes <= budget)
        for each in candidates
    ]


def devices_of(paths: Sequence[Path]) -> list[str]:
    """Name the devices that the runs were on, each once."""
    environments = (_read(path).get("environment") for path in paths)
    return sorted({str(each.get("device")) for each in environments if isinstance(each, dict)})


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(f"{path} is not a results file of this suite.") from None
    if schema not in SCHEMAS:
        raise Refused(f"{path} has schema {schema!r}; only {SCHEMAS[0]} and {SCHEMAS[1]} compare.")
    return document


def _candidate(entry: dict[str, Any], tokens: int) -> Candidate:
    jobs = next(each for each in entry["criteria"] if each["name"] == DONE)
    passed, tried = int(jobs["passed"]), int(jobs["tried"])
    if not 0 <= passed <= tried or tried == 0:
        raise ValueError(f"{passed} of {tried} is not a pass rate")
    first, speed, peak = (entry[key] for key in ("first_token_s", "tokens_per_s", "peak_bytes"))
    return Candidate(
        name=str(entry["name"]),
        passed=passed,
        tried=tried,
        low=float(jobs["low"]),
        high=float(jobs["high"]),
        fits=bool(entry["fits"]),
        reply_s=float(first) + (tokens - 1) / float(speed) if first is not None and speed else None,
        tokens_per_s=float(speed) if speed else None,
        peak_bytes=None if peak is None else int(peak),
        control=bool(entry["control"]),
        licence=entry.get("licence"),
        languages=tuple(map(str, entry.get("languages") or ())),
        context=entry.get("context"),
        n_bytes=entry.get("bytes"),
        first_token_s=None if first is None else float(first),
        other_programs=entry.get("other_programs"),
        replies=tuple(
            {
                str(each["task"]): str(each["text"])
                for each in reversed(entry.get("outputs") or [])
            }.items()
        )[::-1],
    )
