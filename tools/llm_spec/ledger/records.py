"""What crosses from a spec to the ledger, as records.

A record travels as one of pytest's `user_properties`: its kind, and its fields as plain Python
values. So pytest-xdist can send it, JUnit XML can hold it, and neither needs this module.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from llm_spec.text.untrusted import encodable


@dataclass(frozen=True)
class About:
    """Which claim a spec can refute, and on which subject it runs."""

    claim: str
    subject: str


@dataclass(frozen=True)
class Measured:
    """What was measured, what it should be, and the measured number, if it is a finite one."""

    says: str
    expected: str
    value: float | None = None
    bound: float | None = None
    """The most that the number may be, where the claim sets such a bound."""


@dataclass(frozen=True)
class Shown:
    """An exhibit: a plain dict with its `kind` and `title`."""

    exhibit: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A planted fault: the spec that it was planted under, and whether that turned red."""

    spec: str
    red: bool


@dataclass(frozen=True)
class Noise:
    """A noise floor: how far repeats of one thing lie apart, as a share of it; None if infinite."""

    of: str
    value: float | None


@dataclass(frozen=True)
class Inconclusive:
    """The evidence lies inside the measured noise."""

    reason: str


@dataclass(frozen=True)
class Mended:
    """A documented fault of someone else's is gone in a release newer than those known."""

    says: str


Record = About | Measured | Shown | Fault | Noise | Inconclusive | Mended
_TYPES: dict[str, type[Record]] = {
    "about": About,
    "measured": Measured,
    "exhibit": Shown,
    "fault": Fault,
    "noise": Noise,
    "inconclusive": Inconclusive,
    "mended": Mended,
}
_KINDS = {record: kind for kind, record in _TYPES.items()}


def as_property(record: Record) -> tuple[str, dict[str, Any]]:
    """`record` as an entry of `user_properties`."""
    content = {field.name: getattr(record, field.name) for field in fields(record)}
    return _KINDS[type(record)], plain(content)


def records_in(properties: Iterable[tuple[str, Any]]) -> list[Record]:
    """The records among a report's `user_properties`; those of other plugins are passed over."""
    return [_TYPES[kind](**fields) for kind, fields in properties if kind in _TYPES]


def about(properties: Iterable[tuple[str, Any]]) -> About | None:
    """Which claim and subject a report is about; None where its test carries no claim."""
    return next((r for r in records_in(properties) if isinstance(r, About)), None)


def in_words(properties: Iterable[tuple[str, Any]], sentence: str) -> list[tuple[str, object]]:
    """`user_properties` as JUnit XML should hold them: claim, subject, its `sentence`, figures.

    The figures stand beside their bounds; exhibits are for results.json. No name is that of a kind
    of record, so that `records_in` finds none.
    """
    found = records_in(properties)
    words: list[tuple[str, object]] = []
    for each in found:
        if isinstance(each, About):
            words += [("claim", each.claim), ("subject", each.subject), ("sentence", sentence)]
        elif isinstance(each, Measured):
            words.append(("figure", f"{each.says} (should be {each.expected})"))
            if each.bound and each.value is not None:
                words.append(("share_of_bound", f"{each.value / each.bound:.3g}"))
    return words


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays to lists, NaN and infinities to null, keys to strings."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, int):  # also an enum's member, which must not leave this process as such
        return int(value)
    if isinstance(value, float):  # nor may numpy's float64
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {encodable(str(key)): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy and mlx, arrays and scalars alike
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return encodable(str(value))
