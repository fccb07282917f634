"""The kinds of exhibit: the one place in which each is registered.

A kind that is not listed is still shown, as its plain JSON; so results of a suite that records more
than this report can draw are readable.
"""

from typing import Any

from llm_spec.ledger.kinds import costs, inside, language, plots
from llm_spec.ledger.kinds.kind import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind for module in (plots, language, inside, costs) for kind in module.KINDS
}


def shape_fault(exhibit: dict[str, Any]) -> str | None:
    """Why `exhibit` cannot be drawn, or None. An unknown kind has no fault."""
    kind = KINDS.get(exhibit["kind"])
    if kind is None:
        return None
    try:
        return kind.fault(exhibit)
    except KeyError as missing:
        return f"has no {missing.args[0]}"
    except (TypeError, AttributeError, ValueError, IndexError):
        return f"is not shaped like {kind.shape or f'a {kind.name}'}"
