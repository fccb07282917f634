"""From outcomes of specs to verdicts on claims, and to the file that holds them."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from llm_spec.ledger.claims import Claim
from llm_spec.ledger.records import (
    About,
    Fault,
    Inconclusive,
    Measured,
    Mended,
    Noise,
    Record,
    Shown,
)

SCHEMA = 2
"""2: `known` says of a refuted claim that the fault is documented; in 1, the reason began with
"known: ". And `values` holds the measured numbers, which 1 has only inside its sentences."""
DEPTH = 30
"""Layers for which the report tells the tolerances that grow with depth: SmolLM2-135M's."""
VERDICTS = ("verified", "refuted", "inconclusive", "not run")
PROVED_BEFORE = "proved with this code before; run it with --prove"
"""Why a claim about the suite itself is not run in a run of everything."""
PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "huggingface_hub", "numpy", "pytest")


def told(reason: str | None, known: bool) -> str | None:
    """A reason as it is shown: a documented fault says so first."""
    return f"known: {reason}" if known else reason


def beside_expected(measured: str | None, expected: str | None) -> str | None:
    """What was measured, each figure with what it should be: `distance = 4.2e-7 (at most 1e-5)`.

    A figure that equals its expected value is shown once. Both arguments are fields of a row.
    """
    if not measured or not expected:
        return measured
    figures, due = measured.split("; "), expected.split("; ")
    if len(figures) != len(due):  # a figure holds a semicolon: the parts cannot be paired
        figures, due = [measured], [expected]
    pairs = zip(figures, due, strict=True)
    return "; ".join(f if f.endswith(f"= {d}") else f"{f} ({d})" for f, d in pairs)


@dataclass
class Row:
    """One claim on one subject: everything the specs reported about it."""

    claim: Claim
    subject: str
    outcomes: list[str] = field(default_factory=list)
    measured: str | None = None
    expected: str | None = None
    reason: str | None = None
    known: bool = False
    """Whether it is refuted by documented faults of someone else's alone."""
    mended: bool = False
    """Whether it is verified although a fault of someone else's was known to refute it."""
    values: list[float | None] = field(default_factory=list)
    """The numbers of `measured`, one for each of its sentences; None where that has no number."""
    bounds: list[float | None] = field(default_factory=list)
    """The most that each of `values` may be; None where the claim sets no such bound."""
    exhibits: list[dict[str, Any]] = field(default_factory=list)
    weight: int = 0
    """That of the report whose figures and reason are told."""

    @property
    def verdict(self) -> str:
        """The worst outcome counts; a claim that no spec ran, or only skipped specs, is not run."""
        for verdict in ("refuted", "inconclusive", "verified"):
            if verdict in self.outcomes:
                return verdict
        return "not run"

    @property
    def why(self) -> str | None:
        """The reason as it is shown."""
        return told(self.reason, self.known)

    @property
    def seen(self) -> str | None:
        """What was measured, beside what it should be."""
        return beside_expected(self.measured, self.expected)

    def as_dict(self) -> dict[str, Any]:
        claim = self.claim
        return {
            "id": claim.id,
            "says": claim.says,
            "kind": claim.kind,
            "experiment": claim.experiment,
            "subject": self.subject,
            "verdict": self.verdict,
            "measured": self.measured,
            "expected": self.expected,
            "reason": self.reason,
            "known": self.known,
            "mended": self.mended,
            "values": self.values,
            "bounds": self.bounds,
            "corrects": claim.corrects,
            "falsifier": claim.falsifier,
            "exhibits": self.exhibits,
        }


@dataclass(frozen=True)
class Report:
    """The outcome of one run of a spec."""

    outcome: Literal["passed", "failed", "skipped"]
    records: Sequence[Record]
    reason: str | None = None
    known: bool = False
    """Whether it failed as expected: a documented fault of someone else's."""

    @property
    def verdict(self) -> str:
        if self.outcome == "skipped":
            undecided = any(isinstance(record, Inconclusive) for record in self.records)
            return "inconclusive" if undecided else "not run"
        return "verified" if self.outcome == "passed" else "refuted"

    @property
    def weight(self) -> int:
        """Of several reports of a claim the weightiest is told: a refutation, a new one before one
        that is known; of equals the last."""
        return 0 if self.outcome != "failed" else 1 if self.known else 2


class Results:
    """Collects what specs report and keeps one row per claim and subject."""

    def __init__(self, ledger: Mapping[str, Claim]) -> None:
        self._ledger = ledger
        self._rows: dict[tuple[str, str], Row] = {}
        self._places: dict[tuple[str, str], int] = {}
        self.faults: list[Fault] = []
        self.remembered: tuple[int, str] = (0, "")
        """How many faults turned their claim red in an earlier run of the same code, and when."""
        self.noise: list[dict[str, Any]] = []
        """Noise floors as rows of a table: {"name", "value", "why"}."""

    def expect(self, claim_id: str, subject: str, reason: str | None = None) -> None:
        """A spec was collected; `reason` says why it will not run, if so."""
        self._places.setdefault((claim_id, subject), len(self._places))
        row = self._row(claim_id, subject)
        if row is not None and reason is not None:
            row.reason = row.reason or reason

    def add(self, report: Report) -> None:
        """Take one spec's report."""
        about = next((r for r in report.records if isinstance(r, About)), None)
        row = self._row(about.claim, about.subject) if about else None
        if row is None:
            return
        is_told = report.weight >= row.weight
        if report.weight > row.weight:  # also where it measured nothing
            row.measured, row.expected, row.values, row.bounds = None, None, [], []
            row.weight = report.weight
        measured = [r for r in report.records if isinstance(r, Measured)]
        if measured and is_told:
            row.measured = "; ".join(each.says for each in measured)
            row.expected = "; ".join(each.expected for each in measured)
            row.values = [each.value for each in measured]
            row.bounds = [each.bound for each in measured]
        if report.outcome == "failed":
            row.known = report.known and (row.known or "refuted" not in row.outcomes)
        row.outcomes.append(report.verdict)
        if is_told and (
            report.outcome != "skipped" or not row.reason
        ):  # why others did not run goes first
            row.reason = report.reason or row.reason
        for record in report.records:
            if isinstance(record, Shown):
                row.exhibits.append(record.exhibit)
            elif isinstance(record, Fault):
                self.faults.append(record)
            elif isinstance(record, Mended):
                row.mended, row.reason = True, record.says
            elif isinstance(record, Noise):
                why = f"measured by claim {row.claim.id} on {row.subject}"
                self.noise.append({"name": record.of, "value": record.value, "why": why})

    def _row(self, claim_id: str, subject: str) -> Row | None:
        if claim_id not in self._ledger:
            return None
        key = (claim_id, subject)
        return self._rows.setdefault(key, Row(self._ledger[claim_id], subject))

    @property
    def rows(self) -> list[Row]:
        """In the plan's order; subjects as collected, in whatever order workers report them."""

        def place(row: Row) -> tuple[tuple[int, int], float]:
            return row.claim.order, self._places.get((row.claim.id, row.subject), math.inf)

        return sorted(self._rows.values(), key=place)

    @property
    def expected(self) -> list[tuple[str, str, str | None]]:
        """What was collected, as arguments of `expect`: how a worker tells its controller."""
        return [(row.claim.id, row.subject, row.reason) for row in self._rows.values()]

    @property
    def kill_rate(self) -> dict[str, int | str] | None:
        """How many planted faults turned their claim red, here and `before`, in a run of the same
        code that ended `at`; None where none was planted."""
        before, at = self.remembered
        if not self.faults and not before:
            return None
        red = sum(fault.red for fault in self.faults)
        told: dict[str, int | str] = {"before": before, "at": at} if before else {}
        return {"red": red + before, "planted": len(self.faults) + before, **told}

    def document(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """The whole of results.json."""
        return {
            "schema": SCHEMA,
            "environment": {**environment, "kill_rate": self.kill_rate, "noise": self.noise},
            "claims": [row.as_dict() for row in self.rows],
        }


def environment(
    command: str, blas: str, partial: bool, created: str, seeds: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that a figure may depend on."""
    import mlx.core as mx  # here, because the BLAS must be chosen before MLX is imported

    from llm_spec.numerics import device, tolerances

    return {
        "created": created,
        "command": command,
        "partial": partial,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "device": device.kind_and_name(),
        "dtype": "float32" if mx.default_device() == mx.cpu else "as stored",
        "blas": blas,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "seeds": dict(seeds),
        "tolerances": tolerances.bounds(layers=DEPTH),
    }


def version(package: str) -> str | None:
    """The installed version; None where the package's metadata is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text`, or leave it as it was.

    Raises:
        OSError: the directory is missing, read-only or full.
    """
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=".llm-spec-", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # a temporary file is private; a report is for sharing
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def to_json(document: Mapping[str, Any]) -> str:
    # Lone surrogates from a vocabulary cannot be encoded as UTF-8; escapes can.
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
