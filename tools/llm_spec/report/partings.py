"""Where a model and another implementation of it part: by setting, position and prompt length."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_spec.ledger.evidence import PARTS
from llm_spec.report.sanitise import Exhibit, clean
from llm_spec.text.untrusted import visible


@dataclass
class Parting:
    """All settings on which one model parts.

    Attributes:
        anchor: its name on the page.
        table: a row per setting, cleaned.
        claims: ids of the claims that recorded it.
    """

    anchor: str
    table: Exhibit
    claims: list[str]


def partings(claims: Iterable[Mapping[str, Any]]) -> dict[str, Parting]:
    """What the exhibits titled `PARTS` say by subject; a row that several recorded, once."""
    found: dict[str, Parting] = {}
    for claim in claims:
        subject = visible(claim["subject"], 120)
        for raw in claim["exhibits"]:
            if not isinstance(raw, Mapping) or raw.get("title") != PARTS:
                continue  # cleaning every exhibit of a large run takes a second
            exhibit = clean(raw)
            if exhibit["kind"] != "table":
                continue
            empty = {**exhibit, "rows": []}
            parting = found.setdefault(subject, Parting(f"apart-{len(found)}", empty, []))
            rows = parting.table["rows"]
            rows += [row for row in exhibit["rows"] if row not in rows]
            name = visible(claim["id"], 40)
            parting.claims += [name] if name not in parting.claims else []
    return found
