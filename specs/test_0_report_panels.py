"""Experiment 0: what a reader of the page sees first, and of which model it is."""

import random

import pytest

from fixtures.doubles.browser import PHONE, visit
from fixtures.doubles.report_sample import (
    exhibit_of,
    miswrite,
    miswrite_template,
    sample,
    written,
)
from llm_spec.report import sections

pytestmark = pytest.mark.browser
DESKTOP = {"width": 1280, "height": 900}
TOKENIZER = "model-c (tokenizer only)"


def with_a_tokenizer():
    """The sample, and a third subject that is only a tokenizer: one claim, one exhibit."""
    whole = sample()
    [claim] = [c for c in whole["claims"] if (c["id"], c["subject"]) == ("2.1", "model-b")]
    whole["claims"].append({**claim, "subject": "model-c"})
    whole["environment"]["subjects"] = {"model-c": "tokenizer only"}
    return whole


def say_nothing_of_it(monkeypatch):
    miswrite(monkeypatch, "subjects.js", "instead.hidden = shown === subject",
             "instead.hidden = true")  # fmt: skip


PANELS = """
[...document.querySelectorAll('.panel[data-choices]')].map((panel) => [
  [...panel.querySelectorAll('h3 .of')].filter((it) => it.offsetParent).map((it) => it.innerText).join(),
  [...panel.querySelectorAll('.instead')].filter((it) => it.offsetParent).map((it) => it.innerText).join(),
])
"""  # noqa: E501


@pytest.mark.claim(id="0.108", falsifier=say_nothing_of_it)
def test_a_panel_without_data_of_the_picked_model_says_which_it_shows(tmp_path, exhibit):
    """Every panel names its model; a panel without data of the picked model says so."""
    shown = {}
    with visit(written(tmp_path, with_a_tokenizer())) as visited:
        for model in ("model-a", "model-b", "model-c"):
            visited.page.locator("#subject").select_option(model)
            shown[model] = visited.page.evaluate(PANELS)
    instead = f"Not run for {TOKENIZER}, showing model-a."
    expected = {"model-a": ["model-a", ""], "model-b": ["model-b", ""],
                "model-c": ["model-a", instead]}  # fmt: skip
    exhibit.table([[m, *panel] for m, panels in shown.items() for panel in panels],
                  ["picked", "the title names", "the panel says"], "panels")  # fmt: skip
    wrong = [[m, *panel] for m, panels in shown.items() for panel in panels if panel != expected[m]]

    says = exhibit.measured("panels without the right notice", wrong, should_be=[])

    assert len(shown["model-c"]) >= 8, f"panels = {len(shown['model-c'])}, but should be more"
    assert wrong == [], says


def tell_the_headline(monkeypatch):
    miswrite_template(monkeypatch, "parts.html", "entry.on(subject)", "entry.headline")


EVIDENCE = """
[...document.querySelectorAll('.panel article, .proof-of > div, .exhibit')]
  .filter((it) => it.offsetParent && it.querySelector('.result'))
  .map((it) => [it.dataset.subject ?? '', [...it.querySelectorAll('.result')].map((one) => one.innerText)])
"""  # noqa: E501


@pytest.mark.claim(id="0.111", falsifier=tell_the_headline)
def test_evidence_beside_a_picture_is_of_the_model_in_the_picture(tmp_path, exhibit):
    """Every picture with the results beside it, after each choice of the selector."""
    whole = sample()
    for claim in whole["claims"]:
        claim["measured"] = f"seen on {claim['subject']}"
    read = []
    with visit(written(tmp_path, whole)) as visited:
        visited.unfold_all()
        for model in ("model-a", "model-b"):
            visited.page.locator("#subject").select_option(model)
            read += [[model, *found] for found in visited.page.evaluate(EVIDENCE)]
    exhibit.table([[m, of, "; ".join(beside)] for m, of, beside in read],
                  ["picked", "picture of", "beside it"], "pictures")  # fmt: skip
    others = [row for row in read if row[1] and not (
        row[0] == row[1] and all(f"seen on {row[1]}" in result for result in row[2]))]  # fmt: skip

    says = exhibit.measured("pictures beside results of another model", others, should_be=[])

    assert len(read) >= 30, f"pictures with results = {len(read)}, but should be more"
    assert others == [], says


def turn_the_page_round(monkeypatch):
    monkeypatch.setattr(sections, "TEXTS", sections.TEXTS[::-1])


FORWARD = ["tokens", "embeddings", "weights", "attention", "residual", "predictions", "generation",
           "speed", "memory", "quantisation", "assistant"]  # fmt: skip
"""All sections in the order of a forward pass but that of the cache: the sample run saw none."""


@pytest.mark.claim(id="0.112", falsifier=turn_the_page_round)
def test_pictures_stand_first_in_the_order_of_a_forward_pass(tmp_path, exhibit):
    """Sections from top to bottom, none of what the run did not look at; the first picture is in
    the first screen, the ledger folded."""
    with visit(written(tmp_path), viewport=DESKTOP) as visited:
        ids = visited.page.evaluate(
            "[...document.querySelectorAll('main > section')].map((it) => it.id)"
        )
        first = visited.page.locator(".panel").first.bounding_box()["y"]
        ledger = visited.page.locator("#ledger").bounding_box()["height"]
        visited.page.evaluate("location.hash = '#claim-5.2'")
        visited.page.locator("#claim-5\\.2 .entry").wait_for()
    exhibit.table([[id_] for id_ in ids], ["section"], "sections from top to bottom")

    first_ids = ids[: len(FORWARD)]
    says = exhibit.measured("first sections", first_ids, should_be=FORWARD)

    assert first_ids == FORWARD, says
    assert "cache" not in ids, "the page has a section of the cache, which the run did not look at"
    assert ids[-1] == "ledger", f"last section = {ids[-1]}, but should be the ledger"
    assert first < DESKTOP["height"], f"top of the first picture = {first:.0f} px, below the screen"
    assert ledger < DESKTOP["height"], f"height of the folded ledger = {ledger:.0f} px"


def keep_the_order_of_the_file(monkeypatch):
    miswrite(monkeypatch, "kinds/weights.js", ".sort((a, b) => a.place", ".map((it) => it); [].sort((a, b) => a.place")  # noqa: E501  # fmt: skip


TILES = """
[...document.querySelectorAll('.treemap .slice')].map((it) => {
  const { x, y } = it.getBoundingClientRect();
  return [it.textContent.replace(/[\\u2066-\\u2069]/g, ''), Math.round(x), Math.round(y)];
})
"""


@pytest.mark.claim(id="0.113", falsifier=keep_the_order_of_the_file)
def test_tiles_of_the_weights_are_named_and_in_the_order_of_the_layers(tmp_path, exhibit):
    """A file that holds its layers in a random order, read row by row from the top left."""
    whole = sample()
    groups = [
        {"name": f"model.{name}.weight", "logical_shape": [4, 4], "stored_shape": [4, 4],
         "dtype": "float32", "parameters": 16, "bytes": size}
        for name, size in [("embed_tokens", 6000), ("norm", 10)] + [
            (f"layers.{n}.{part}", 400)
            for n in range(12) for part in ("self_attn.q_proj", "mlp.up_proj")]
    ]  # fmt: skip
    random.Random(1).shuffle(groups)
    exhibit_of(whole, "weights")["groups"] = groups
    with visit(written(tmp_path, whole), viewport=DESKTOP) as visited:
        visited.page.locator("[data-draw=weights]").first.scroll_into_view_if_needed()
        visited.page.locator(".treemap .slice").first.wait_for()
        visited.page.wait_for_timeout(1000)  # tiles move to their places
        tiles = visited.page.evaluate(TILES)
    exhibit.table(tiles, ["tile", "x (px)", "y (px)"], "tiles")
    found = sorted((y, x, name.split("  ")[0]) for name, x, y in tiles if name.startswith("layer "))
    layers = [name for _, _, name in found]
    names = {name.split("  ")[0] for name, _, _ in tiles}

    says = exhibit.measured("layers", layers, should_be=[f"layer {n}" for n in range(12)])

    assert layers == [f"layer {n}" for n in range(12)], says
    assert {"embedding", "attn", "mlp"} <= names, f"tiles = {names}, but should name their parts"


def tell_operations(monkeypatch):
    miswrite(monkeypatch, "kinds/costs.js", "rate(point.tokens_per_s)", "rate(point.flops)")


@pytest.mark.claim(id="0.114", falsifier=tell_operations)
def test_the_roofline_tells_tokens_per_second_and_their_ceiling(tmp_path, exhibit):
    """Decode and prefill, recorded by two claims, stand in one picture."""
    whole = sample()
    speed = next(c for c in whole["claims"] if (c["id"], c["subject"]) == ("7.1", "model-a"))
    [one] = [it for it in speed["exhibits"] if it["kind"] == "roofline"]
    one["points"] = [point("decode", 12.5, 50.0, 0.5)]
    speed["exhibits"].append({**one, "points": [point("prefill", 300.0, 400.0, 50.0)]})
    with visit(written(tmp_path, whole)) as visited:
        picture = visited.page.locator("[data-draw=roofline]").first
        picture.scroll_into_view_if_needed()
        picture.locator(".main-svg").first.wait_for(state="attached")
        said = " ".join(picture.locator("text").all_text_contents())
    exhibit.text(said, title="words in the picture")
    wanted = ["decode", "12.5 tokens/s", "25% of the ceiling", "at most 50 tokens/s",
              "prefill", "300 tokens/s", "75% of the ceiling", "at most 400 tokens/s"]  # fmt: skip
    missing = [words for words in wanted if words not in said.replace("\u202f", "")]

    says = exhibit.measured("missing in the picture", missing, should_be=[])

    assert missing == [], says


def point(name, rate, ceiling, intensity):
    return {"name": name, "intensity": intensity, "flops": 1e8 * rate, "tokens_per_s": rate,
            "ceiling_tokens_per_s": ceiling, "share": rate / ceiling}  # fmt: skip


def stay_with_the_text(monkeypatch):
    miswrite(monkeypatch, "kinds/attention.js", 'score === "induction" &&', "false &&")


@pytest.mark.claim(id="0.115", falsifier=stay_with_the_text)
def test_an_induction_head_is_shown_on_a_text_that_repeats_itself(tmp_path, exhibit):
    """Two texts; a click on the strongest induction head goes to the one with a repetition."""
    whole = sample()
    maps = [it for c in whole["claims"] for it in c["exhibits"] if it["kind"] == "attention"]
    maps[1]["tokens"] = [*maps[1]["tokens"][:5], *maps[1]["tokens"][:5]]
    claim = next(c for c in whole["claims"] if (c["id"], c["subject"]) == ("5.1", "model-a"))
    scores = {"induction": [[0.1] * 5] * 3 + [[0.9] + [0.1] * 4] + [[0.1] * 5] * 10}
    claim["exhibits"].append(
        {"kind": "heads", "title": "heads", "layers": 14, "heads": 5, "scores": scores}
    )
    with visit(written(tmp_path, whole)) as visited:
        panel = visited.page.locator(".attention").first
        panel.scroll_into_view_if_needed()
        before = panel.locator(".sentence button").all_inner_texts()
        panel.get_by_role("radio", name="induction").click()
        panel.get_by_role("button", name="layer 3, head 0").click()
        after = panel.locator(".sentence button").all_inner_texts()
        title = panel.locator("h4").first.inner_text()
    exhibit.table([["before", " ".join(before)], [title, " ".join(after)]], ["", "text"], "shown")
    repeated = len(after) - len(set(after))

    says = exhibit.measured("repeated tokens in the text shown", repeated, should_be="above 0")

    assert len(before) == len(set(before)), (
        f"tokens of the first text = {before}, but should not repeat"
    )
    assert title == "Layer 3, head 0", f"shown = {title}, but should be layer 3, head 0"
    assert repeated > 0, says


def start_at_the_left(monkeypatch):
    miswrite(monkeypatch, "start.js", "wide.scrollLeft = wide.scrollWidth", "wide.scrollLeft = 0")


EDGES = """() => {
  const lens = document.querySelector('.lens');
  const cut = (it) => it.getBoundingClientRect().right - lens.parentElement.getBoundingClientRect().right;
  const select = document.getElementById('subject');
  const pen = document.createElement('canvas').getContext('2d');
  pen.font = getComputedStyle(select).font;
  const longest = Math.max(...[...select.options].map((it) => pen.measureText(it.text).width));
  return { column: Math.round(cut(lens.rows[0].lastElementChild)), name: Math.round(longest - select.clientWidth),
           overflow: document.documentElement.scrollWidth - screen.width };
}"""  # noqa: E501


@pytest.mark.claim(id="0.116", falsifier=start_at_the_left)
def test_a_phone_cuts_neither_the_answer_of_the_lens_nor_a_models_name(tmp_path, exhibit):
    """How far the last column, and the longest name in the selector, reach over their frames."""
    whole = with_a_tokenizer()
    for lens in (it for c in whole["claims"] for it in c["exhibits"] if it["kind"] == "lens"):
        lens["tokens"] = [f" position{n}" for n in range(10)]
    with visit(written(tmp_path, whole), **PHONE) as visited:
        over = visited.page.evaluate(EDGES)
    exhibit.table(list(map(list, over.items())), ["what", "pixels over its frame"], "edges")

    says = exhibit.measured("pixels over the frame", over, should_be="at most 0")

    assert max(over.values()) <= 1, says
