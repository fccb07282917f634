"""Experiment 0: lists of claims, which the page carries packed and puts in when they are needed."""

import pytest

from fixtures.doubles.browser import visit
from fixtures.doubles.report_sample import miswrite, sample, written

pytestmark = pytest.mark.browser
CLAIM, EVIDENCE = "claim-5.2", "evidence-3.1"
LED_TO = """(id) => {
  const it = document.getElementById(id);
  const place = it?.getBoundingClientRect();
  return {
    unfolded: it?.querySelector('details')?.open ?? false,
    marked: it?.matches(':target') ?? false,
    inSight: Boolean(it?.checkVisibility()) && place.top >= -1 && place.top < innerHeight,
  };
}"""


def unpack_nothing(monkeypatch):
    miswrite(monkeypatch, "ledger.js", 'putIn((list, html) => html.includes(`id="${id}"`));', "")


@pytest.mark.claim(id="0.224", falsifier=unpack_nothing)
def test_a_link_unfolds_what_the_page_carries_packed(tmp_path, exhibit):
    """A click on the mark of a claim, a click on the evidence of another, and the page opened by a
    link to each; before a click, what the link leads to is still packed."""
    address = written(tmp_path).as_uri()
    found, packed = {}, {}
    with visit(tmp_path / "report.html") as visited:
        reader = visited.page

        def led(how, id_, opened_at="", clicks=()):
            reader.goto("about:blank")
            reader.goto(address + opened_at)
            reader.wait_for_selector(".main-svg", state="attached")
            packed[how] = reader.locator(f"[id='{id_}']").count() == 0
            for clicked in clicks:
                reader.locator(clicked).first.dispatch_event("click")
            reader.wait_for_timeout(1000)
            found[how] = reader.evaluate(LED_TO, id_)

        ledger = "#ledger .whole > summary"
        led("a click on a claim", CLAIM, clicks=[f".mosaic [href='#{CLAIM}']"])
        led("a click on evidence", EVIDENCE, clicks=[ledger, f"[href='#{EVIDENCE}']"])
        led("opened at a claim", CLAIM, f"#{CLAIM}")
        led("opened at evidence", EVIDENCE, f"#{EVIDENCE}")
    rows = [[how, *map(str, what.values())] for how, what in found.items()]
    exhibit.table(rows, ["link", "unfolded", "marked", "in sight"], title="what links led to")
    wanted = {how: {"unfolded": True, "marked": True, "inSight": True} for how in found}

    says = exhibit.measured("led to", found, should_be=wanted)

    assert found == wanted, says
    before = [packed[how] for how in ("a click on a claim", "a click on evidence")]
    assert before == [True, True], f"packed before the click = {before}, but should be both"


PRINTED = """
addEventListener('afterprint', () => {
  window.printed = [...document.querySelectorAll('.ledger > li')]
    .filter((it) => it.checkVisibility()).map((it) => it.querySelector('.id').textContent);
});
"""


def fold_it_on_paper(monkeypatch):
    miswrite(monkeypatch, "ledger.js", "whole.open = true;", "")


@pytest.mark.claim(id="0.225", falsifier=fold_it_on_paper)
def test_the_printed_page_holds_the_ledger(tmp_path, exhibit):
    """Claims in sight while the page is printed, and after it."""
    results = sample()
    claims = sorted({claim["id"] for claim in results["claims"]})
    with visit(written(tmp_path, results), PRINTED) as visited:
        visited.page.pdf()
        printed = sorted(visited.page.evaluate("window.printed"))
        after = visited.page.locator("#ledger .whole[open]").count()
    exhibit.text(", ".join(printed) or "none", title="claims of the ledger on paper")

    says = exhibit.measured("claims printed", printed, should_be=claims)

    assert printed == claims, says
    assert after == 0, f"unfolded ledgers after printing = {after}, but should be 0"
