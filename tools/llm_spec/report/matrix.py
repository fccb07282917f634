"""Which laws hold for which models, as one table: a row per model, a column per law."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_spec.report.entries import Entry, Result
from llm_spec.report.partings import Parting

SIGNS = {"verified": "✓", "refuted": "✗", "inconclusive": "~", "not run": "·"}


@dataclass(frozen=True)
class Cell:
    """The result of one law on one model."""

    kind: str
    """A verdict, or `known` for a fault that is documented."""
    sign: str
    says: str
    """The verdict in words, with what was measured or the reason."""
    opens: str = ""
    """Name on the page of where the model parts from another implementation; "" where it does
    not, or another claim asked."""


@dataclass
class Matrix:
    """Models by laws; a law that was never asked of a model has no cell."""

    laws: list[Entry]
    rows: list[tuple[str, list[Cell | None]]]
    """Those that break a law first, then in the order of the results."""

    def count(self, kind: str) -> int:
        """Cells of this kind."""
        return sum(cell is not None and cell.kind == kind for _, row in self.rows for cell in row)


def matrix_of(
    entries: Iterable[Entry], partings: Mapping[str, Parting] | None = None
) -> Matrix | None:
    """The table of these claims; None where no two models were held to any of them. A model on
    which none of them ran has no row."""
    laws = [entry for entry in entries if len(entry.results) > 1]
    ran = _ran_on(laws)
    laws = [law for law in laws if any(result.subject in ran for result in law.results)]
    apart = {(c, subject): p.anchor for subject, p in (partings or {}).items() for c in p.claims}
    found = {
        (law.id, result.subject): _cell(result, apart.get((law.id, result.subject), ""))
        for law in laws for result in law.results
    }  # fmt: skip
    if len(ran) < 2:
        return None
    rows = [(subject, [found.get((law.id, subject)) for law in laws]) for subject in ran]
    return Matrix(laws, sorted(rows, key=lambda row: -_broken(row[1])))


def _ran_on(laws: Iterable[Entry]) -> list[str]:
    """The models on which at least one of these laws ran, in the order of the results."""
    results = (result for law in laws for result in law.results)
    return list(dict.fromkeys(each.subject for each in results if each.verdict != "not run"))


def _cell(result: Result, opens: str) -> Cell:
    kind = "known" if result.known else result.verdict
    why = result.measured if result.verdict == "verified" else result.why or result.measured
    says = f"{result.verdict}: {why}" if why else result.verdict
    return Cell(kind, SIGNS[result.verdict], says, opens)


def _broken(cells: Iterable[Cell | None]) -> int:
    """New faults weigh more than any number of known ones."""
    weights = {"refuted": 1000, "known": 1}
    return sum(weights.get(cell.kind, 0) for cell in cells if cell)
