"""The ledger's text: what is claimed, and whether specs and claims fit each other."""

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

KINDS = {
    "law": "holds exactly or within a derived tolerance, for every model",
    "fact": "discrete and exact, of a named model",
    "measurement": "a bound on a device, with its reason",
}


class LedgerError(Exception):
    """claims.toml cannot be used; the message is one sentence that names file and entry."""


@dataclass(frozen=True)
class Claim:
    """One falsifiable sentence. `id` is experiment.number and is never reused."""

    id: str
    says: str
    kind: str
    plan: str
    """The section of the plan that it answers, or "-" for the suite's own instruments."""
    falsifier: str
    """The planted fault that must turn the claim red, in words."""
    corrects: str | None = None
    """What the plan says, where the plan is wrong."""
    law: str | None = None
    """The function of `llm_spec.laws` that decides, where one spec holds a subject to many laws."""
    remedy: str | None = None
    """What to do where a model under test refutes it."""

    @property
    def experiment(self) -> int:
        return int(self.id.partition(".")[0])

    @property
    def order(self) -> tuple[int, int]:
        experiment, _, number = self.id.partition(".")
        return int(experiment), int(number)


def read_ledger(path: Path) -> dict[str, Claim]:
    """Claims by id, in the plan's order.

    Raises:
        LedgerError: the file is missing, not TOML, or an entry is incomplete, misspelt or doubled.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LedgerError(f"{path.name} cannot be read: {error}.") from error
    if unknown := document.keys() - {"claim"}:
        raise LedgerError(f"{path.name}: {min(unknown)!r} is not a known table; write [[claim]].")
    claims: dict[str, Claim] = {}
    for entry in document.get("claim", ()):
        claim = _claim(entry, path.name)
        if claim.id in claims:
            raise LedgerError(f"{path.name}: claim {claim.id} is defined twice.")
        claims[claim.id] = claim
    return dict(sorted(claims.items(), key=lambda item: item[1].order))


def _claim(entry: Mapping[str, object], file: str) -> Claim:
    names = {field.name for field in fields(Claim)}
    who = f"{file}: claim {entry.get('id', '(without id)')}"
    for name, value in entry.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise LedgerError(f"{who} has an unknown field {name!r}{hint}")
        if not isinstance(value, str) or not value.strip(" ?"):
            raise LedgerError(f"{who}: {name!r} must be a string that says something.")
    if missing := names - {"corrects", "law", "remedy"} - entry.keys():
        raise LedgerError(f"{who} lacks {', '.join(sorted(missing))}.")
    claim = Claim(**entry)  # type: ignore[arg-type]  # every value was found to be a string above
    if not re.fullmatch(r"\d+\.\d+", claim.id):
        raise LedgerError(f"{who}: an id is experiment.number, such as 5.2.")
    if claim.kind not in KINDS:
        raise LedgerError(f"{who}: kind {claim.kind!r} is none of {', '.join(KINDS)}.")
    return claim


def mismatches(
    ledger: Mapping[str, Claim], specs: Iterable[tuple[str, str | None]], complete: bool
) -> list[str]:
    """Sentences that say where specs and ledger do not fit; empty when they do.

    Args:
        specs: (spec, claim id or None) for each spec function that was collected.
        complete: whether every spec module was collected, so that a claim can be called unclaimed.
    """
    specs = sorted(set(specs), key=lambda spec: (spec[0], spec[1] or ""))
    problems = []
    for spec, claim_id in specs:
        if claim_id is None:
            problems.append(f"{spec} carries no claim; mark it @pytest.mark.claim(id=…).")
        elif claim_id not in ledger:
            problems.append(f"{spec} names claim {claim_id}, which claims.toml does not hold.")
    used = Counter(claim_id for _, claim_id in specs if claim_id)
    for claim_id, count in used.items():
        if count > 1:
            where = " and ".join(spec for spec, other in specs if other == claim_id)
            problems.append(f"claim {claim_id} is used for different sentences: {where}.")
    if complete:
        problems += [f"claim {id_} has no spec." for id_ in ledger if id_ not in used]
    return problems
