"""What a kind of exhibit is, and what the modules that define kinds have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from llm_spec.numerics.units import show_number
from llm_spec.text.untrusted import visible

Exhibit = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """All that is known of one kind of exhibit, but for how the page's script draws it."""

    name: str
    fault: Callable[[Exhibit], str | None]
    """Why an exhibit cannot be drawn, to be read after "it", or None. May raise KeyError for what
    is missing, and TypeError, ValueError, AttributeError or IndexError for what has another shape.
    """
    terminal: Callable[[Exhibit], RenderableType] | None = None
    """How a terminal shows it; None where only a page can."""
    section: str | None = None
    """The section of the report in which it is a panel; None if it is shown beside its claim."""
    script: bool = False
    """Whether a script of the page draws it, from `report/assets/kinds`."""
    rank: int | None = None
    """For a picture beside a claim: the lower, the sooner it is unfolded at first."""
    own_panel: bool = False
    """Whether its panel has a template of its own, in templates/panels.html."""
    shape: str = ""
    """What it is "not shaped like", where that is not `a` and its name."""


def is_number(value: Any) -> bool:
    """Whether `value` is a number, or null for one that was not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def numbers(values: Any) -> None:
    """Raise TypeError unless `values` is a list of numbers."""
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise TypeError


def strings(values: Any) -> None:
    """Raise TypeError unless `values` is a list of strings."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError


def string(*values: Any) -> None:
    """Raise TypeError unless all `values` are strings."""
    if not all(isinstance(value, str) for value in values):
        raise TypeError


def as_cell(cell: object) -> str:
    """A cell of a table as a terminal shows it."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1e4 else show_number(cell)
    return visible("×".join(map(str, cell)) if isinstance(cell, list) else str(cell))
