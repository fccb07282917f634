"""Reading results: the one place where a file from outside becomes data that can be trusted."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_spec.ledger.kinds import shape_fault
from llm_spec.ledger.kinds.kind import is_number
from llm_spec.ledger.results import SCHEMA, VERDICTS


class ResultsError(Exception):
    """Results that cannot be read; the message is one sentence for the person who gave them."""


def load_results(path: str | Path) -> dict[str, Any]:
    """The results in the file at `path`, checked.

    Raises ResultsError, naming the file and the cause, when it is missing, cut off, of a newer
    schema, not results, or holds a number that is not finite.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultsError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise ResultsError(f"{path} is a directory, not a results file.") from None
    except UnicodeDecodeError:
        raise ResultsError(f"{path} is not a results file: it is not text.") from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}.") from None
    if not text.strip():
        raise ResultsError(f"{path} is empty.")
    try:
        results = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated"):
            raise ResultsError(f"{path} is cut off after {len(text):,} characters.") from None
        where = f"line {error.lineno}, column {error.colno}"
        raise ResultsError(f"{path} is not JSON: {error.msg} at {where}.") from None
    except (RecursionError, ValueError):
        raise ResultsError(
            f"{path} is nested too deep or holds a number too long to read."
        ) from None
    try:
        check_results(results)
        if results["schema"] < 2:
            _raise_to_2(results)
        for claim in results["claims"]:
            for exhibit in claim["exhibits"]:
                fault = exhibit_fault(exhibit)
                if fault:
                    raise ResultsError(
                        f"claim {claim['id']} on {claim['subject']}: its exhibit {fault}."
                    )
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None
    return results


def check_results(results: Any) -> None:
    """Raise ResultsError unless `results` has the shape that the suite writes."""
    if not isinstance(results, dict) or "schema" not in results or "claims" not in results:
        raise ResultsError("this is JSON, but not results of this suite.")
    schema = results["schema"]
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ResultsError(f"its schema is {schema!r}, which is no schema of this suite.")
    if schema > SCHEMA:
        raise ResultsError(
            f"it was written by a newer version (schema {schema}; this one reads up to {SCHEMA})."
        )
    if not isinstance(results.get("environment"), dict):
        raise ResultsError("it does not say where it was measured (no environment).")
    subjects = results["environment"].get("subjects", {})
    if not isinstance(subjects, dict) or not all(isinstance(v, str) for v in subjects.values()):
        raise ResultsError("it does not say in words what its models are.")
    if not isinstance(results["claims"], list):
        raise ResultsError("its claims are not a list.")
    _check_judged(results.get("judged", []))
    for number, claim in enumerate(results["claims"]):
        _check_claim(number, claim)


def _check_judged(judged: Any) -> None:
    """The verdicts on models, of which the page shows words and numbers."""
    words, numbers = ("claim", "says", "looks_like"), ("ratio", "bound")
    try:
        for each in judged:
            told = [each["model"], each["verdict"], *each["counts"]]
            counts = [*each["counts"].values()]
            for entry in [*each["refuted"], *each["nearest"]]:
                told += [entry[name] for name in words]
                counts += [entry[name] for name in numbers]
                told += [entry[name] or "" for name in ("figure", "found", "remedy")]
            told.append(each["again"] or "")
            if not all(isinstance(word, str) for word in told) or not all(map(_is_finite, counts)):
                raise ValueError
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ResultsError("its verdicts on models are not told as this suite does.") from error


def _check_claim(number: int, claim: Any) -> None:
    if not isinstance(claim, dict):
        raise ResultsError(f"entry {number} of its claims is not a claim.")
    for field in ("id", "says", "subject", "verdict"):
        if not isinstance(claim.get(field), str) or not claim[field]:
            raise ResultsError(f"entry {number} of its claims has no {field}.")
    if claim["verdict"] not in VERDICTS:
        raise ResultsError(
            f"claim {claim['id']} has the verdict {claim['verdict']!r}, unknown here."
        )
    for field in ("kind", "measured", "expected", "reason", "corrects", "falsifier"):
        if not isinstance(claim.get(field), str | None):
            raise ResultsError(f"claim {claim['id']}: its {field} is not text.")
    if not isinstance(claim.get("known", False), bool):
        raise ResultsError(f"claim {claim['id']}: its field known is neither true nor false.")
    values = claim.get("values", [])
    if not isinstance(values, list) or not all(map(_is_finite, values)):
        raise ResultsError(f"claim {claim['id']}: its values are no list of numbers.")
    if not isinstance(claim.get("exhibits"), list):
        raise ResultsError(f"claim {claim['id']} on {claim['subject']} has no list of exhibits.")


def _is_finite(value: Any) -> bool:
    return is_number(value) and (value is None or math.isfinite(value))


def _raise_to_2(results: dict[str, Any]) -> None:
    """Schema 1 told a documented fault by how the reason began, and had no numbers."""
    for claim in results["claims"]:
        reason = claim.get("reason") or ""
        if claim["verdict"] == "refuted" and reason.startswith("known: "):
            claim["known"], claim["reason"] = True, reason.removeprefix("known: ")


def exhibit_fault(exhibit: Any) -> str | None:
    """Why an exhibit cannot be drawn, to be read after "the exhibit", or None."""
    if not isinstance(exhibit, dict) or not isinstance(exhibit.get("kind"), str):
        return "has no kind"
    title = str(exhibit.get("title", exhibit["kind"]))[:80]
    try:
        for number in _numbers(exhibit):
            if not math.isfinite(number):
                name = "NaN" if math.isnan(number) else "an infinite number"
                return f"“{title}” holds {name}, where only finite numbers can stand"
    except RecursionError:
        return f"“{title}” is nested too deep"
    fault = shape_fault(exhibit)
    return f"“{title}” {fault}" if fault else None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)
