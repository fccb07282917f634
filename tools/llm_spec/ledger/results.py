"""From outcomes of specs to verdicts on claims, and to the file that holds them."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from llm_spec.ledger.claims import Claim

SCHEMA = 1
DEPTH = 30
"""Layers for which the report tells the tolerances that grow with depth: SmolLM2-135M's."""
VERDICTS = ("verified", "refuted", "inconclusive", "not run")
PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "huggingface_hub", "numpy", "pytest")


@dataclass
class Row:
    """One claim on one subject: everything the specs reported about it."""

    claim: Claim
    subject: str
    outcomes: list[str] = field(default_factory=list)
    measured: str | None = None
    expected: str | None = None
    reason: str | None = None
    exhibits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The worst outcome counts; a claim nobody ran, or whose run was skipped, is not run."""
        for verdict in ("refuted", "inconclusive", "verified"):
            if verdict in self.outcomes:
                return verdict
        return "not run"

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
            "corrects": claim.corrects,
            "falsifier": claim.falsifier,
            "exhibits": self.exhibits,
        }


class Results:
    """Collects what specs report and keeps one row a claim and subject."""

    def __init__(self, ledger: Mapping[str, Claim]) -> None:
        self._ledger = ledger
        self._rows: dict[tuple[str, str], Row] = {}
        self._places: dict[tuple[str, str], int] = {}
        self.faults: list[dict[str, Any]] = []
        """What became of each planted fault: {"claim", "red"}."""
        self.noise: list[dict[str, Any]] = []
        """Noise floors as rows of a table: {"name", "value", "why"}."""

    def expect(self, claim_id: str, subject: str, reason: str | None = None) -> None:
        """A spec was collected; `reason` says why it will not run, if so."""
        self._places.setdefault((claim_id, subject), len(self._places))
        row = self._row(claim_id, subject)
        if row is not None and reason is not None:
            row.reason = row.reason or reason

    def add(self, outcome: str, reason: str | None, properties: Iterable[tuple[str, Any]]) -> None:
        """Take one spec's report: pytest's outcome word and what the spec recorded."""
        recorded: dict[str, list[Any]] = {}
        for name, value in properties:
            recorded.setdefault(name, []).append(value)
        if "claim" not in recorded:
            return
        row = self._row(recorded["claim"][0], recorded["subject"][0])
        if row is None:
            return
        if outcome == "skipped":
            outcome = "inconclusive" if "inconclusive" in recorded else "not run"
        row.outcomes.append({"passed": "verified", "failed": "refuted"}.get(outcome, outcome))
        row.measured = "; ".join(recorded.get("measured", [])) or row.measured
        row.expected = "; ".join(recorded.get("expected", [])) or row.expected
        row.reason = reason or row.reason
        row.exhibits += recorded.get("exhibit", [])
        self.faults += recorded.get("fault", [])
        for floor in recorded.get("noise", []):
            why = f"measured by claim {row.claim.id} on {row.subject}"
            self.noise.append({"name": floor["of"], "value": floor["value"], "why": why})

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
    def kill_rate(self) -> dict[str, int] | None:
        """How many planted faults turned their claim red; None where none was planted."""
        if not self.faults:
            return None
        return {"red": sum(fault["red"] for fault in self.faults), "planted": len(self.faults)}

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
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
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
