"""The report as one HTML file that needs nothing beside it."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from llm_spec.ledger.results import write_atomically
from llm_spec.numerics.units import show_bytes, show_number
from llm_spec.report import entries as ledgers
from llm_spec.report.head_scores import heads_of
from llm_spec.report.load import check_results
from llm_spec.report.matrix import matrix_of
from llm_spec.report.partings import partings
from llm_spec.report.payload import FILE_LIMIT, compact, packed
from llm_spec.report.rooflines import under_one_roof
from llm_spec.report.sections import (
    Section,
    Shown,
    affordable,
    arrange,
    gather,
    main_subject,
    script_data,
    telling,
)
from llm_spec.report.token_pieces import cuts
from llm_spec.text.untrusted import all_visible

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = (
    "dom", "data", "theme", "labels", "draw", "numbers", "sampling", "subjects", "ledger", "matrix",
    *(f"kinds/{path.stem}" for path in sorted((ASSETS / "kinds").glob("*.js"))),
    "start",
)  # fmt: skip
STYLES = ("page", "ledger", "sections", "matrix", "print")
GLYPHS = {"verified": "✓", "refuted": "✗", "inconclusive": "~", "not run": "–"}


def write_report(results: Mapping[str, Any], path: str | Path, limit: int = FILE_LIMIT) -> None:
    """Write the report on `results` (what results.json holds) to `path`, whole or not at all.

    An exhibit that cannot be drawn is replaced by a sentence. Raises ResultsError when `results`
    are no results, OSError when `path` cannot be written.
    """
    write_atomically(Path(path), render_report(results, limit))


def render_report(results: Mapping[str, Any], limit: int = FILE_LIMIT) -> str:
    """The report on `results` as HTML of at most `limit` bytes that loads nothing.

    Where all exhibits would be too much, the last ones are left out, and the page says how many.
    """
    check_results(results)
    entries = ledgers.entries(results["claims"])
    found = gather(results["claims"])
    items = telling(found, entries)
    template = environment().get_template("report.html")
    budget = min(float(limit), sum(item.price for item in items))
    while True:
        html = _render(template, results, entries, items, len(found), budget)
        excess = len(html.encode("utf-8")) - limit
        if excess <= 0 or budget == 0:
            return html
        budget = max(0.0, budget - 1.1 * excess - 0.02 * limit)


def _render(
    template: Template,
    results: Mapping[str, Any],
    entries: list[ledgers.Entry],
    items: list[Shown],
    found: int,
    budget: float,
) -> str:
    about = results["environment"]
    kept = affordable(items, budget)
    every_part = arrange(kept, entries)
    by_id = {part.id: part for part in every_part}
    _derive_heads(by_id["attention"])
    _join_rooflines(by_id["speed"])
    corrections = [entry for entry in entries if entry.corrects]
    parts = _looked_at(every_part)
    last = next(part.id for part in parts if part.id in ("laws", "method"))
    judged = all_visible(results.get("judged", []))
    apart = partings(results["claims"])
    script = "\n".join(asset(f"{name}.js") for name in SCRIPTS)
    script = f"(() => {{\n'use strict';\n{script}\n}})();"
    plotly, packed_plotly = _plotly()
    return template.render(
        entries=entries,
        counts=ledgers.counts(entries),
        subjects=ledgers.subjects(entries),
        models=ledgers.models(entries),
        main_subject=main_subject(items),
        experiments=sorted({entry.experiment for entry in entries}),
        corrections=corrections,
        corrections_before=last,
        contents=_contents(parts, last if corrections else None, bool(judged)),
        judged=judged,
        kinds=all_visible(about.get("subjects") or {}),
        parts=parts,
        matrix=matrix_of(by_id["laws"].entries, apart),
        apart=apart,
        left_out=found - len(kept),
        about=all_visible(about),
        style="\n".join(asset(f"{name}.css") for name in STYLES),
        script=script,
        exhibits=packed(compact(script_data(parts))),
        plotly=packed_plotly,
        policy=policy(plotly, script),
    )  # fmt: skip


def _looked_at(parts: list[Section]) -> list[Section]:
    """What a run did not look at has no section."""
    return [part for part in parts if part.panels or part.entries or part.id == "method"]


def _contents(
    parts: list[Section], corrections_before: str | None, is_judged: bool
) -> list[tuple[str, str]]:
    """What the page holds, in its order: anchor and name."""
    row = [(part.id, part.short) for part in parts]
    if corrections_before:
        at = next(n for n, part in enumerate(parts) if part.id == corrections_before)
        row.insert(at, ("corrections", "Corrections"))
    return [*([("verdict", "Verdict")] if is_judged else []), *row, ("ledger", "Ledger")]


@cache
def _plotly() -> tuple[str, str]:
    from plotly.offline import get_plotlyjs  # here, since a comparison does without

    script = get_plotlyjs()
    return script, packed(script)


def asset(name: str) -> str:
    """A style or a script of this package."""
    return (ASSETS / name).read_text(encoding="utf-8")


def policy(*scripts: str) -> str:
    """A content policy under which only these scripts run and nothing is loaded."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode('utf-8')).digest()).decode()}'"
        for s in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes or chr(39) + 'none' + chr(39)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def environment() -> Environment:
    """Templates with every value escaped, and the words that they share."""
    env = Environment(
        loader=PackageLoader("llm_spec.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(glyphs=GLYPHS, cuts=cuts, counts_of=ledgers.counts)
    env.filters.update(
        percent=percent,
        quantity=quantity,
        cell=cell,
        packed=packed,
        number=show_number,
        words=words,
        named=named,
        capital=lambda title: title[:1].upper() + title[1:],
        json=_indented,
        anchor=ledgers.anchor,
        entry_of=lambda claim, entries: next(e for e in entries if e.id == claim),
    )
    return env


def percent(share: float | None) -> str:
    """A probability as it is read: 43 %, 0.3 %, < 0.1 %."""
    if share is None:
        return "–"
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1\u202f%"
    return f"{value:.0f}\u202f%" if value >= 10 or value == 0 else f"{value:.1f}\u202f%"


def quantity(size: float | None) -> str:
    """Bytes as `show_bytes` has them, on one line of a page; "–" for none."""
    return "–" if size is None else show_bytes(size).replace(" ", "\u202f")


def cell(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else show_number(value)
    if isinstance(value, list):
        return " × ".join(map(cell, value))
    return str(value)


def _indented(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)[:20_000]


def _derive_heads(part: Section) -> None:
    scored = set(part.panel("heads"))
    for subject, maps in part.panel("attention").items():
        exhibit = heads_of(maps[0].exhibit)
        if exhibit and subject in scored:  # what was recorded goes before what is worked out
            exhibit["scores"] = {"entropy": exhibit["scores"]["entropy"]}
        if exhibit:
            key = f"heads-{maps[0].key}"
            part.panels.setdefault("heads", []).append(Shown(exhibit, subject, maps[0].claims, key))


def _join_rooflines(part: Section) -> None:
    joined = []
    for subject, items in part.panel("roofline").items():
        claims = [claim for item in items for claim in item.claims]
        exhibit = under_one_roof([item.exhibit for item in items])
        joined.append(Shown(exhibit, subject, claims, items[0].key))
    if joined:
        part.panels["roofline"] = joined


def named(subject: str, kinds: Mapping[str, str]) -> str:
    """A subject, and what it is where it is not a whole model: "qwen3 (tokenizer only)"."""
    kind = kinds.get(subject, "model")
    return subject if kind == "model" else f"{subject} ({kind})"


def words(says: str, limit: int = 90) -> str:
    """The first words of a sentence, for a link or a menu."""
    return says if len(says) <= limit else says[: limit - 1].rsplit(" ", 1)[0] + " …"
