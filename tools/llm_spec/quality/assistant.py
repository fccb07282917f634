"""An assistant's jobs, put to a model through its chat template and judged by checkable criteria.

A job is done if every criterion is met; a share of met criteria would reward an empty answer for
inventing nothing. What answers is a plain function from a prompt and seeds to answers, so that a
model and a control (a constant answer, a copy of the prompt) take the same way.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from llm_spec.quality.answering import Answer, Respond
from llm_spec.quality.criteria import Criterion

DONE = "job done"  # the criterion that stands for all of a job's criteria together
FINISHES = "finishes"


@dataclass(frozen=True)
class Job:
    """What is asked, the text it is asked about, and the criteria, each with its name."""

    name: str
    instruction: str
    source: str
    criteria: tuple[tuple[str, Criterion], ...]

    @property
    def prompt(self) -> str:
        """Return the user's message: the instruction and the whole source."""
        return f"{self.instruction}\n\n{self.source}"


@dataclass(frozen=True)
class Verdict:
    """Whether one criterion is met; if not, `why` says it in a sentence."""

    criterion: str
    met: bool
    why: str | None = None


@dataclass(frozen=True)
class Trial:
    """One job put to one responder with one seed."""

    job: Job
    seed: int
    answer: Answer
    verdicts: tuple[Verdict, ...]

    @property
    def done(self) -> bool:
        return all(verdict.met for verdict in self.verdicts)


def judge(job: Job, answer: Answer) -> tuple[Verdict, ...]:
    """Hold an answer to every criterion of its job, and to having come to an end by itself."""
    verdicts = [
        Verdict(name, why is None, why)
        for name, criterion in job.criteria
        for why in [criterion(answer.text, job.source)]
    ]
    cut = None if answer.finished else f"cut off after {answer.tokens} tokens"
    return (*verdicts, Verdict(FINISHES, answer.finished, cut))


def ask(respond: Respond, jobs: Iterable[Job], seeds: Sequence[int]) -> list[Trial]:
    """Put every job to a responder, once per seed."""
    return [
        Trial(job, seed, answer, judge(job, answer))
        for job in jobs
        for seed, answer in zip(seeds, respond(job.prompt, seeds), strict=True)
    ]


def wilson(passed: int, tried: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval for a pass rate; `z` 1.96 makes it a 95 % interval.

    Unlike passed ± z·σ it stays inside [0, 1] and has a width even at 0 of n and n of n.
    Raises ValueError if nothing was tried or more passed than were tried.
    """
    if not 0 <= passed <= tried or tried == 0:
        raise ValueError(f"{passed} of {tried} is not a pass rate")
    rate = passed / tried
    centre = (rate + z * z / (2 * tried)) / (1 + z * z / tried)
    half = z * sqrt(rate * (1 - rate) / tried + z * z / (4 * tried * tried)) / (1 + z * z / tried)
    low = 0.0 if passed == 0 else centre - half  # exact at the ends, where the formula only rounds
    high = 1.0 if passed == tried else centre + half
    return low, high


def reply_seconds(first_token_s: float, tokens: float, tokens_per_s: float) -> float:
    """Return how long a reply takes: the first token, then the others at their speed."""
    return first_token_s + (tokens - 1) / tokens_per_s


def candidate(
    name: str, trials: Sequence[Trial], n_bytes: int | None = None, control: bool = False
) -> dict[str, Any]:
    """Sum up one responder's trials as plain data, for an exhibit and for `choose`.

    Pass rates come with their 95 % interval: first of whole jobs, then of each job, then of each
    criterion. Times are medians over trials; `peak_bytes` is the largest. `n_bytes` is what the
    weights take up.
    """
    whole = [(DONE, trial.done) for trial in trials]
    jobs = [(trial.job.name, trial.done) for trial in trials]
    parts = [(verdict.criterion, verdict.met) for trial in trials for verdict in trial.verdicts]
    answers = [trial.answer for trial in trials]
    peaks = [answer.peak_bytes for answer in answers if answer.peak_bytes is not None]
    return {
        "name": name,
        "control": control,
        "bytes": n_bytes,
        "fits": None if control else True,  # it ran here
        "first_token_s": _median([answer.first_token_s for answer in answers]),
        "tokens_per_s": _median([answer.tokens_per_s for answer in answers]),
        "tokens": _median([answer.tokens for answer in answers]),
        "peak_bytes": max(peaks, default=None),
        "criteria": [*_rates(whole), *_rates(jobs), *_rates(parts)],
        "outputs": [
            {
                "task": trial.job.name,
                "seed": trial.seed,
                "prompt": trial.job.prompt,
                "text": trial.answer.text,
                "criteria": [
                    {"name": v.criterion, "met": v.met, "why": v.why} for v in trial.verdicts
                ],
            }
            for trial in trials
        ],
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _rates(outcomes: Iterable[tuple[str, bool]]) -> list[dict[str, Any]]:
    counts: dict[str, list[bool]] = {}
    for name, met in outcomes:
        counts.setdefault(name, []).append(met)
    return [
        {"name": name, "passed": sum(met), "tried": len(met), "low": low, "high": high}
        for name, met in counts.items()
        for low, high in [wilson(sum(met), len(met))]
    ]
