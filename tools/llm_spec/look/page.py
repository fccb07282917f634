"""What was seen, as one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from llm_spec.ledger.results import write_atomically
from llm_spec.look.maps import UNIT, packed_maps, shapes, shown_maps
from llm_spec.look.observation import Candidate, Look, parting
from llm_spec.report.page import asset, environment, policy
from llm_spec.report.payload import compact, packed
from llm_spec.text.untrusted import piece, visible

ASSETS = Path(__file__).parent / "assets"
SHARED_SCRIPTS = ("dom", "data", "theme", "labels")
PROSE = 20_000


def write_page(model: str, looks: Sequence[Look], path: Path) -> None:
    """Write the page to `path`, whole or not at all. Raises OSError where it cannot be written."""
    write_atomically(path, render_page(model, looks))


def render_page(model: str, looks: Sequence[Look]) -> str:
    """One text, or two side by side, as HTML that loads nothing."""
    maps = [shown_maps(look.seen) for look in looks]
    script = "\n".join(
        [*(asset(f"{name}.js") for name in SHARED_SCRIPTS), (ASSETS / "look.js").read_text("utf-8")]
    )
    script = f"(() => {{\n'use strict';\n{script}\n}})();"
    style = asset("page.css") + asset("sections.css") + (ASSETS / "look.css").read_text("utf-8")
    texts = [_text(look, shapes(each)) for look, each in zip(looks, maps, strict=True)]
    shared = parting(looks) if len(looks) == 2 else []
    env = environment()
    assert env.loader is not None  # as `environment` gives it
    env.loader = ChoiceLoader([PackageLoader("llm_spec.look", "templates"), env.loader])
    return env.get_template("look.html").render(
        model=visible(model, 200),
        texts=texts,
        template=looks[0].template,
        shared=[{"token": piece(text), "apart": apart} for text, apart in shared],
        style=style,
        script=script,
        data=packed(compact({"unit": UNIT, "texts": [_for_script(text) for text in texts]})),
        maps=packed_maps(maps),
        policy=policy(script),
    )


def _text(look: Look, attention: list[dict[str, object] | None]) -> dict[str, Any]:
    """One text in plain values, with all that came from a vocabulary made safe to show."""
    return {
        "text": visible(look.text, PROSE, lines=True),
        "tokens": [
            {
                "piece": piece(token.text),
                "id": token.id,
                "norm": token.norm,
                "neighbours": [
                    {"token": piece(text), "similarity": cosine}
                    for text, cosine in token.neighbours
                ],
            }
            for token in look.tokens
        ],
        "note": visible(look.seen.note, 400) if look.seen.note else None,
        "attention": attention,
        "lens": [[_candidates(cell) for cell in row] for row in look.lens],
        "next": _candidates(look.next),
        "steps": [_candidates([step.chosen, *step.runners_up]) for step in look.steps],
        "ended": look.ended,
    }


def _candidates(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    return [
        {"token": piece(each.token), "id": each.id, "probability": each.probability}
        for each in candidates
    ]


def _for_script(text: dict[str, Any]) -> dict[str, Any]:
    """What scripts draw: the rest of the page stands in it as it is read."""
    pieces = [token["piece"] for token in text["tokens"]]
    return {"tokens": pieces, "attention": text["attention"], "steps": text["steps"]}
