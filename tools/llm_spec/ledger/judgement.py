"""What a run says of a model under test: verdict, what refutes it, what came near, what to do.

Plain values: a run prints them, results.json holds them.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llm_spec.ledger.results import VERDICTS, Row

NEAREST = 3
"""So many verified claims are told, those whose figures came nearest to their bounds."""


def judgement(rows: Sequence[Row], model: str, given: Sequence[str]) -> dict[str, Any]:
    """The verdict of a run on `model`, of which `rows` are all that the run found.

    `given` are the arguments that named models: with them the run is told again. The keys are
    `model`; `verdict`, "refuted" by one claim, "inconclusive" where none is decided, "not run"
    where none could be; `unreached`, how many claims the run ended before; `known`, whether only
    documented faults of others refute it; `counts` by verdict; `refuted` and `nearest`, as `_entry`
    tells a claim, the worst first; `again`, the command that shows the evidence of what is refuted,
    or None.
    """
    own = [row for row in rows if row.subject == model]
    counts = Counter(row.verdict for row in own)
    wrong = [row for row in own if row.verdict == "refuted" and not row.known]
    known = [row for row in own if row.verdict == "refuted" and row.known]
    verdict = next((name for name in ("refuted", "verified", "inconclusive") if counts[name]),
                   "not run")  # fmt: skip
    refuted = [_entry(row) for row in wrong or known]
    near = [told for row in own if row.verdict == "verified" and (told := _entry(row))["ratio"]]
    ids = ",".join(entry["claim"] for entry in refuted)
    again = ["pytest", "specs/", *given, "--claim", ids, "--show"]
    return {
        "model": model,
        "verdict": verdict,
        "unreached": sum(row.verdict == "not run" and row.reason is None for row in own),
        "known": bool(known) and not wrong,
        "counts": {name: counts[name] for name in VERDICTS if counts[name]},
        "refuted": sorted(refuted, key=_how_far, reverse=True),
        "nearest": sorted(near, key=_how_far, reverse=True)[:NEAREST],
        "again": shlex.join(again) if refuted else None,
    }


def _how_far(entry: dict[str, Any]) -> float:
    """For sorting: what has no bound, or no finite number, is no matter of degree."""
    ratio = entry["ratio"]
    return float("inf") if ratio is None else float(ratio)


def _entry(row: Row) -> dict[str, Any]:
    """One claim, with that of its figures that is furthest out.

    `figure` is its sentence, and `ratio` its value over its bound: None where the bound is 0, or
    the value is no finite number.
    """
    place, value, bound, ratio = _furthest(row)
    figures = (row.measured or "").split("; ")
    is_told = place is not None and len(figures) == len(row.values)
    return {
        "claim": row.claim.id,
        "says": row.claim.says,
        "found": row.seen or row.reason,
        "figure": figures[place] if is_told and place is not None else None,
        "value": value,
        "bound": bound,
        "ratio": ratio,
        "remedy": row.claim.remedy,
        "looks_like": row.claim.falsifier,
    }


def _furthest(row: Row) -> tuple[int | None, float | None, float | None, float | None]:
    """The place, value, bound and ratio of the figure that is furthest out."""
    figures = [
        (place, value, bound, value / bound if bound and value is not None else None)
        for place, (value, bound) in enumerate(zip(row.values, row.bounds, strict=True))
        if bound is not None
    ]
    if not figures:
        return None, None, None, None
    return max(figures, key=lambda each: float("inf") if each[3] is None else each[3])
