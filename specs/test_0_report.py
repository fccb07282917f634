"""Experiment 0: the report is read as a reader reads it, in a real browser.

What stands on the page is compared with the results that it was made of. Without a Chromium, or
without the extra `browser`, these are not run.
"""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from fixtures.doubles.browser import PHONE, visit
from fixtures.doubles.report_sample import (
    HEADS,
    HOSTILE,
    LAYERS,
    TOKENS,
    exhibit_of,
    many_models,
    miswrite,
    sample,
    written,
)
from llm_spec.report import page

pytestmark = pytest.mark.browser
ISOLATES = str.maketrans("", "", "\u2066\u2067\u2068\u2069")
FIRST_PICTURE = """
new MutationObserver((_, observer) => {
  if (!document.querySelector('.main-svg')) return;
  window.firstPicture = performance.now();
  observer.disconnect();
}).observe(document, { subtree: true, childList: true });
"""


def ask_the_network(monkeypatch):
    miswrite(monkeypatch, "start.js", "async function start() {",
             "async function start() { fetch('http://127.0.0.1:9/').catch(() => {});")  # fmt: skip


@pytest.mark.claim(id="0.31", falsifier=ask_the_network)
def test_a_report_asks_for_nothing_and_complains_of_nothing(tmp_path, exhibit):
    """Every picture drawn, every fold opened; then what the browser requested and what it said."""
    with visit(written(tmp_path), FIRST_PICTURE) as visited:
        visited.draw_all()
        pictures = visited.page.locator(".main-svg").count()
        first = visited.page.evaluate("window.firstPicture")
    exhibit.text(f"{pictures} pictures, the first after {first:.0f} ms", title="opened")

    found = visited.asked + visited.said
    says = exhibit.measured("requests and messages", found, should_be=[])

    assert pictures >= 20, f"pictures drawn = {pictures}, but should be at least 20"
    assert found == [], says


def turn_the_map_round(monkeypatch):
    miswrite(monkeypatch, "kinds/attention.js",
             "attentionSentence(names[query], names[key], weight)",
             "attentionSentence(names[query], names[key], map[key][query])")  # fmt: skip


@pytest.mark.claim(id="0.32", falsifier=turn_the_map_round)
def test_the_number_under_the_pointer_is_the_weight_in_the_results(tmp_path, exhibit):
    """Layer 12 and head 3 by arrow keys; then another head by a click on the overview."""
    results = sample()
    weights = exhibit_of(results, "attention")["weights"]
    shown, expected = [], []
    with visit(written(tmp_path, results)) as visited:
        reader = visited.page
        panel = reader.locator(".attention").first
        panel.scroll_into_view_if_needed()
        for role, times in (("layer", 12), ("head", 3)):
            panel.locator(f"[data-role={role}] input").focus()
            for _ in range(times):
                reader.keyboard.press("ArrowRight")
        for query, key in ((3, 1), (5, 0), (4, 4), (1, 5)):
            shown.append(hovered(reader, panel, query, key))
            expected.append(sentence(weights[12][3], query, key))
        pick_in_the_overview(reader, panel, layer=7, head=2)
        shown.append(panel.locator("h4").first.text_content())
        expected.append("Layer 7, head 2")
        shown.append(hovered(reader, panel, 5, 2))
        expected.append(sentence(weights[7][2], 5, 2))
    exhibit.table(list(map(list, zip(shown, expected))), columns=["on the page", "in the results"],
                  title="hovered")  # fmt: skip

    says = exhibit.measured("on the page", shown, should_be=expected)

    assert shown == expected, says


def sentence(weights, query, key):
    names = [token.replace(" ", "␣") for token in TOKENS]
    return f"‹{names[query]}› attends to ‹{names[key]}›: {page.percent(weights[query][key])}"


def hovered(reader, panel, query, key):
    """What a heat map says under the pointer; row and column as shares of its area."""
    picture = panel.locator(".drawing").first
    picture.scroll_into_view_if_needed()
    area = picture.locator(".nsewdrag").first.bounding_box()
    x = area["x"] + area["width"] * (key + 0.5) / len(TOKENS)
    y = area["y"] + area["height"] * (query + 0.5) / len(TOKENS)
    reader.mouse.move(x - 2, y - 2)
    reader.mouse.move(x, y, steps=3)
    reader.wait_for_timeout(120)
    return picture.locator(".hoverlayer").text_content().translate(ISOLATES)


def pick_in_the_overview(reader, panel, layer, head):
    area = panel.locator(".heads .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    reader.mouse.click(box["x"] + box["width"] * (head + 0.5) / HEADS,
                       box["y"] + box["height"] * (layer + 0.5) / LAYERS)  # fmt: skip
    reader.wait_for_function(
        f"document.querySelector('.attention h4').textContent.startsWith('Layer {layer}')"
    )


BARS = """
[...document.querySelectorAll('.prediction .drawing')].slice(0, 2).map((it) => it.data[0].x)
"""
SETTINGS = [
    {"temperature": 1, "top-p": 1, "min-p": 0, "top-k": 0},
    {"temperature": 0.1, "top-p": 1, "min-p": 0, "top-k": 0},
    {"temperature": 2, "top-p": 1, "min-p": 0, "top-k": 0},
    {"temperature": 1.5, "top-p": 0.9, "min-p": 0, "top-k": 0},
    {"temperature": 0.7, "top-p": 1, "min-p": 0.1, "top-k": 0},
    {"temperature": 1, "top-p": 1, "min-p": 0, "top-k": 3},
    {"temperature": 1.3, "top-p": 0.8, "min-p": 0.05, "top-k": 5},
    {"temperature": 0, "top-p": 0.5, "min-p": 0, "top-k": 0},
]


def flatten_what_is_listed(monkeypatch):
    miswrite(monkeypatch, "sampling.js", "logprob: logit - norm, count: 1 }));",
             "logprob: (logit - norm) / 2, count: 1 }));")  # fmt: skip


@pytest.mark.claim(id="0.33", falsifier=flatten_what_is_listed)
def test_the_sliders_show_what_the_sampler_would_draw_from(tmp_path, exhibit, monkeypatch):
    """For each setting, the ten bars of two prompts against mlx-lm's own sampler."""
    results = sample()
    predictions = [e for c in results["claims"] for e in c["exhibits"]
                   if e["kind"] == "predictions"][:2]  # fmt: skip
    worst = []
    with visit(written(tmp_path, results)) as visited:
        visited.page.locator(".predictions").first.scroll_into_view_if_needed()
        visited.page.wait_for_selector(".prediction .main-svg")
        for setting in SETTINGS:
            for name, value in setting.items():
                slider = visited.page.get_by_role("slider", name=re.compile(f"^{name}")).first
                slider.fill(str(value))
            visited.page.wait_for_timeout(150)
            bars = visited.page.evaluate(BARS)
            expected = [
                sampler_draws_from(e["all"], setting, monkeypatch)[:10] for e in predictions
            ]
            worst.append(float(np.abs(np.array(bars) - np.array(expected)).max()))
    exhibit.table([[*setting.values(), error] for setting, error in zip(SETTINGS, worst)],
                  columns=[*SETTINGS[0], "largest error"], title="settings tried")  # fmt: skip

    says = exhibit.measured("largest error of a bar", max(worst), should_be="below 0.001")

    assert max(worst) < 1e-3, says


def sampler_draws_from(logits, setting, monkeypatch):
    """The distribution over the vocabulary from which mlx-lm's sampler draws."""
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(sample_utils, "categorical_sampling",
                      lambda x, temp: drawn.append(mx.softmax(x / temp)))  # fmt: skip
        sampler = sample_utils.make_sampler(
            temp=setting["temperature"],
            top_p=setting["top-p"],
            min_p=setting["min-p"],
            top_k=setting["top-k"],
        )
        logits = mx.array(logits)
        chosen = sampler(logits - mx.logsumexp(logits))
    return np.array(drawn[0]) if drawn else np.eye(logits.size)[chosen.item()]


def escape_nothing(monkeypatch):
    environment = page.environment

    def trusting():
        env = environment()
        env.autoescape = False
        return env

    monkeypatch.setattr(page, "environment", trusting)


@pytest.mark.claim(id="0.34", falsifier=escape_nothing)
def test_a_vocabulary_is_shown_and_never_obeyed(tmp_path, exhibit):
    """Pieces with markup, quotes, direction marks, control characters, half pairs, 10,000 long."""
    with visit(
        written(tmp_path, sample(HOSTILE)), viewport={"width": 1280, "height": 900}
    ) as visited:
        visited.draw_all()
        made = visited.intrusions()
        text = visited.page.locator("main").inner_text()
        made["complaints"] = visited.said
    shown = {name: name in text for name in ("<script>window.broken=1</script>", "⟨202E⟩gnp.exe",
             "⟨D83D⟩", "␀", "(10,000 characters)", "{{7*7}}")}  # fmt: skip
    exhibit.table([[k, str(v)] for k, v in {**made, **shown}.items()], ["what", "found"], "hostile")

    healthy = {"ran": None, "elements": 0, "scripts": 3, "signs": 0, "overflow": 0,
               "complaints": []}  # fmt: skip
    says = exhibit.measured("what the vocabulary did to the page", made, should_be=healthy)

    assert made == healthy, says
    assert all(shown.values()), f"shown = {shown}, but should be all of them"


def filter_nothing(monkeypatch):
    miswrite(monkeypatch, "ledger.js", "row.hidden = !visible", "row.hidden = false")


@pytest.mark.claim(id="0.35", falsifier=filter_nothing)
def test_filters_and_links_lead_to_exactly_the_claims_they_name(tmp_path, exhibit):
    """The ledger's rows under each filter, and the claim that a link opens."""
    choices = {
        ("verdict", "corrections"): ["2.1", "6.1"],
        ("verdict", "refuted"): ["5.2"],
        ("verdict", "not run"): ["6.2"],
        ("experiment", "7"): ["7.1", "7.2"],
        ("subject", "suite"): ["0.1"],
    }
    path = written(tmp_path)
    left = {}
    with visit(path) as visited:
        visited.page.evaluate("location.hash = '#ledger'")
        for field, value in choices:
            visited.page.locator(f"#filters [name={field}]").select_option(value)
            left[field, value] = visited.page.locator(
                ".ledger > li:visible > .id"
            ).all_inner_texts()
            visited.page.locator(f"#filters [name={field}]").select_option("")
        visited.page.evaluate("location.hash = '#claim-5.2'")
        opened = visited.page.locator(".ledger details[open]")
        opened.wait_for()
        left["link"] = [opened.locator("xpath=..").get_attribute("id")]
        visited.page.evaluate("location.hash = '#quantisation'")
        visited.page.wait_for_timeout(1000)
        top = visited.page.locator("#quantisation").bounding_box()["y"]
    exhibit.table([[str(k), ", ".join(v)] for k, v in left.items()], ["filter", "left"], "filters")

    says = exhibit.measured("claims left", left, should_be={**choices, "link": ["claim-5.2"]})

    assert left == {**choices, "link": ["claim-5.2"]}, says
    assert 0 <= top < 200, f"a section's place after its link = {top:.0f} px, but should be the top"


def print_in_light_grey(monkeypatch):
    miswrite(monkeypatch, "page.css", "--ink: #1e1d1b", "--ink: #cccccc")


@pytest.mark.claim(id="0.36", falsifier=print_in_light_grey)
def test_no_serious_barrier_stands_before_a_reader(tmp_path, exhibit):
    """axe-core's rules, everything unfolded: in the light, and on a phone in the dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright",
                              reason="no axe-core: install the extra `browser`").Axe()  # fmt: skip
    path = written(tmp_path, many_models(models=4, laws=3))
    barriers = []
    for name, reader in {"light": {}, "dark, phone": {**PHONE, "color_scheme": "dark"}}.items():
        with visit(path, bypass_csp=True, **reader) as visited:  # axe-core is a script of its own
            visited.draw_all()
            barriers += [
                f"{name}: {found['id']} ({found['impact']}) {found['nodes'][0]['html'][:80]}"
                for found in axe.run(visited.page).response["violations"]
                if found["impact"] in ("serious", "critical")
            ]
    exhibit.text("\n".join(barriers) or "none", title="violations, serious or critical")

    says = exhibit.measured("violations", barriers, should_be=[])

    assert barriers == [], says
