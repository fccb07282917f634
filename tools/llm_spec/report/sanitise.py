"""Exhibits made fit for a page: text made visible, numbers shortened, faults set aside."""

from collections.abc import Mapping
from typing import Any

from llm_spec.report.load import exhibit_fault
from llm_spec.text.untrusted import piece, visible

Exhibit = dict[str, Any]

_PROSE = {"text", "prompt", "why", "rule", "how", "source"}
_PIECES = {"tokens", "pieces", "token", "word"}
_AXES = {"rows", "columns", "labels"}
PROSE_LIMIT = 40_000
DIGITS = 5


def clean(exhibit: Mapping[str, Any]) -> Exhibit:
    """`exhibit` as it can be drawn; one that cannot becomes a text that says why."""
    fault = exhibit_fault(exhibit)
    if fault:
        title = str(exhibit.get("title", "")) if isinstance(exhibit, Mapping) else ""
        text = f"Left out, because the exhibit {visible(fault, 400)}."
        return {"kind": "text", "title": visible(title, 200) or "Exhibit", "text": text}
    cleaned: Exhibit = _clean(exhibit, None, exhibit["kind"])
    cleaned["title"] = cleaned.get("title") or cleaned["kind"]
    return cleaned


def _clean(value: Any, key: str | None, kind: str) -> Any:
    if isinstance(value, str):
        return _string(value, key, kind)
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, Mapping):
        return {visible(str(k), 120): _clean(v, str(k), kind) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, key, kind) for item in value]
    return value


def _string(value: str, key: str | None, kind: str) -> str:
    if key in _PROSE:
        return visible(value, PROSE_LIMIT, lines=True)
    if kind == "table":
        return visible(value, 2000, lines=True)
    if key in _PIECES or key in _AXES:
        return piece(value)
    return visible(value, 400)


def _short(value: float) -> float | int:
    """Five significant digits, and no more than five decimals: what a picture can show."""
    if value == 0:
        return 0
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
