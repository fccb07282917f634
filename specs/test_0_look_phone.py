"""Experiment 0: the page of `llm-spec look` on a phone, in a real browser."""

import pytest

from fixtures.doubles.browser import PHONE, visit
from llm_spec.look import models, observation, page

pytestmark = pytest.mark.browser

WIDTH = "document.documentElement.scrollWidth"
TEXT = "An uncharacteristically long text about Rust, " * 4


def widen_the_links(monkeypatch):
    asset, row = page.asset, "flex: 1 0 100%"
    assert row in asset("sections.css"), f"sections.css no longer holds {row!r}"
    monkeypatch.setattr(page, "asset", lambda name: asset(name).replace(row, f"{row} !important"))


@pytest.mark.claim(id="0.175", falsifier=widen_the_links)
def test_on_a_phone_the_page_of_look_is_no_wider_than_the_screen(embedded, tmp_path, exhibit):
    """Pixels that the page reaches over the right edge of the screen, for one text and for two."""
    opened = models.Opened(embedded.name, embedded.unpacked, embedded.tokenizer, [])
    looks = [observation.look(opened, text, generate=4) for text in (TEXT, "Rust")]
    over = {}
    for texts in (1, 2):
        file = tmp_path / f"{texts}.html"
        page.write_page(opened.name, looks[:texts], file)
        with visit(file, drawn=".thumb canvas", **PHONE) as visited:
            over[texts] = visited.page.evaluate(WIDTH) - PHONE["viewport"]["width"]
    exhibit.table(list(map(list, over.items())), ["texts", "pixels over the screen"], "page widths")

    says = exhibit.measured("pixels over the screen", max(over.values()), should_be="at most 0")

    assert max(over.values()) <= 0, says
