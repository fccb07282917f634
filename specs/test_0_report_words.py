"""Experiment 0: what the page and its commands say of models, corrections, mistakes."""

import dataclasses
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from html import unescape

import pytest

from fixtures.doubles.browser import chromium
from fixtures.doubles.report_sample import miswrite_template, sample, written
from fixtures.doubles.suite_run import plant, small_suite, start_pytest
from llm_spec.cli import command_line, fit
from llm_spec.cli import compare as compare_command
from llm_spec.ledger import results
from llm_spec.report import destination, entries, matrix, page
from llm_spec.report.page import render_report

OPTIONS = re.compile(r'<option value="(model[^"]*)"[^>]*>([^<]*)<')
CARDS = re.compile(
    r'<p class="truth"><span class="label">([^<]*)</span> <bdi>([^<]*)</bdi></p>', re.DOTALL
)


def name_them_all_alike(monkeypatch):
    monkeypatch.setattr(page, "named", lambda subject, kinds: subject)


@pytest.mark.claim(id="0.109", falsifier=name_them_all_alike)
def test_the_selector_tells_a_tokenizer_or_a_shape_from_a_model(exhibit):
    """The selector's options: value and text that a reader sees."""
    whole = sample()
    for name in ("model-c", "model-d"):
        whole["claims"].append({**whole["claims"][1], "subject": name})
    whole["environment"]["subjects"] = {"model-a": "model", "model-c": "tokenizer only",
                                        "model-d": "shape only"}  # fmt: skip
    told = dict(OPTIONS.findall(render_report(whole)))
    exhibit.table(list(map(list, told.items())), ["model", "in the selector"], "options")
    wanted = {"model-a": "model-a", "model-b": "model-b", "model-c": "model-c (tokenizer only)",
              "model-d": "model-d (shape only)"}  # fmt: skip

    says = exhibit.measured("options", told, should_be=wanted)

    assert told == wanted, says


def show_all_sections(monkeypatch):
    monkeypatch.setattr(page, "_looked_at", lambda parts: parts)


SECTIONS = re.compile(r'<section id="([^"]*)"')


@pytest.mark.claim(id="0.156", falsifier=show_all_sections)
def test_what_a_run_did_not_look_at_has_no_section(exhibit):
    """The sections of a page of one claim, which corrects the plan."""
    whole = sample()
    whole["claims"] = [claim for claim in whole["claims"] if claim["id"] == "2.1"]
    found = SECTIONS.findall(render_report(whole))
    exhibit.table([[id_] for id_ in found], ["section"], "sections from top to bottom")

    wanted = ["tokens", "corrections", "method", "ledger"]
    says = exhibit.measured("sections", found, should_be=wanted)

    assert found == wanted, says


def give_every_model_a_row(monkeypatch):
    monkeypatch.setattr(
        matrix, "_ran_on", lambda laws: sorted({r.subject for law in laws for r in law.results})
    )


ROWS = re.compile(r'<tr[^>]*>\s*<th scope="row"[^>]*>(?:<bdi>)?([^<]*)<')


@pytest.mark.claim(id="0.157", falsifier=give_every_model_a_row)
def test_a_model_on_which_no_law_ran_has_no_row(exhibit):
    """The rows of the table of laws: two models were held to a law, two were not."""
    whole = sample()
    law = {**whole["claims"][0], "id": "9.3", "exhibits": []}
    verdicts = {"model-a": "verified", "model-b": "refuted", "model-c": "not run",
                "model-d": "not run"}  # fmt: skip
    whole["claims"] = [{**law, "subject": name, "verdict": v} for name, v in verdicts.items()]
    section = render_report(whole).partition('id="laws"')[2].partition("</section>")[0]
    found = sorted(ROWS.findall(section))
    exhibit.table([[name] for name in found], ["model"], "rows of the table of laws")

    wanted = [name for name, verdict in verdicts.items() if verdict != "not run"]
    says = exhibit.measured("rows", found, should_be=wanted)

    assert found == wanted, says


BUILT_BY_A_SPEC = """
import pytest

@pytest.fixture
def served(request):
    return request.param

@pytest.mark.claim(id="9.1")
def test_of_a_tiny_model(served):
    pass
"""


def take_all_for_models(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.provision import catalogue
    catalogue.RANDOM_WEIGHTS = "model"
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.152", falsifier=take_all_for_models)
def test_a_tiny_model_that_a_spec_builds_is_told_as_random_weights(exhibit, tmp_path):
    """A run of one spec, on the tiny model that mlx_lm.server serves."""
    suite = small_suite(tmp_path / "suite", BUILT_BY_A_SPEC, ["9.1"])
    report = tmp_path / "results.json"
    run = start_pytest("specs", "--report", report, root=suite)
    exhibit.text(run.communicate()[0], title="the run")
    told = json.loads(report.read_text(encoding="utf-8"))["environment"]["subjects"]

    says = exhibit.measured("subjects", told, should_be={"tiny-served": "random weights"})

    assert told == {"tiny-served": "random weights"}, says


def head_every_card_alike(monkeypatch):
    miswrite_template(monkeypatch, "corrections.html", "[entry.verdict]", "['verified']")


@pytest.mark.claim(id="0.110", falsifier=head_every_card_alike)
def test_a_correction_that_did_not_run_is_not_told_as_the_truth(exhibit):
    """One card per correction: verified, refuted, inconclusive, not run."""
    whole = sample()
    rows = [c for c in whole["claims"] if c["subject"] == "model-a" and c["id"] != "0.1"]
    verdicts = ("verified", "refuted", "inconclusive", "not run")
    for row, verdict in zip(rows, verdicts):
        row |= {"verdict": verdict, "corrects": "a mistake", "says": f"this was {verdict}"}
    whole["claims"] = rows[: len(verdicts)]
    html = render_report(whole)
    section = html[html.index('<section id="corrections"') :]
    told = {unescape(says): label for label, says in CARDS.findall(section)}
    exhibit.table(list(map(list, told.items())), ["claim", "headed"], "cards")
    wanted = {
        "this was verified": "Measured instead",
        "this was refuted": "Claimed instead, and refuted here",
        "this was inconclusive": "Claimed instead, undecided here",
        "this was not run": "Claimed instead, not checked here",
    }

    says = exhibit.measured("cards", told, should_be=wanted)

    assert told == wanted, says
    in_sight = section[: section.index("<details")]
    assert "this was not run" not in in_sight, "a correction that was not run is not folded away"


def remember_no_proof(monkeypatch):
    monkeypatch.setattr(entries, "PROVED_BEFORE", "")


@pytest.mark.claim(id="0.226", falsifier=remember_no_proof)
def test_the_page_counts_what_was_proved_before_with_the_same_code(exhibit):
    """The tally at the head of a page: two claims about the suite are not run for that reason."""
    whole, proved = sample(), 2
    for number in range(proved):
        whole["claims"].append({
            "id": f"0.{number + 2}", "says": "A check is right", "kind": "law", "subject": "suite",
            "verdict": "not run", "reason": results.PROVED_BEFORE, "exhibits": [],
        })  # fmt: skip
    told = re.findall(r"not run \((\d+) proved before\)", render_report(whole))
    exhibit.text(f"not run: {told}", title="the tally at the head of the page")

    says = exhibit.measured("claims told as proved before", told, should_be=[str(proved)])

    assert told == [str(proved)], says


def write_whatever_is_asked(monkeypatch):
    monkeypatch.setattr(destination, "check_destination", lambda *_: None)


@pytest.mark.claim(id="0.117", falsifier=write_whatever_is_asked)
def test_a_wrong_ending_and_an_interrupt_end_in_one_line(tmp_path, exhibit, monkeypatch):
    """Exit code and message: 2 for a page requested as x.pdf, 130 after Ctrl-C."""
    results = tmp_path / "results.json"
    results.write_text(json.dumps(sample()))
    pdf = str(tmp_path / "x.pdf")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "run", interrupted)
    asked = {
        "report": ["report", str(results), "-o", pdf],
        "compare": ["compare", str(results), str(results), "-o", pdf],
        "compare models that are not there": [
            "compare",
            str(results),
            str(results),
            "--pair",
            "nobody=none",
        ],
        "fit": ["fit"],
    }
    answers = {name: answer(arguments) for name, arguments in asked.items()}
    exhibit.table([[name, code, said] for name, (code, said) in answers.items()],
                  ["command", "exit code", "said"], "answers")  # fmt: skip
    codes = {name: code for name, (code, _) in answers.items()}

    wanted = dict.fromkeys(asked, 2) | {"fit": 130}
    says = exhibit.measured("exit codes", codes, wanted)

    assert codes == wanted, says
    long = [said for _, said in answers.values() if said.count("\n") != 1]
    assert long == [], f"answers of more than one line = {long}, but should be none"
    assert not (tmp_path / "x.pdf").exists(), "x.pdf was written"


def answer(arguments):
    """Exit code and everything said."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(said):
        code = command_line.main(arguments)
    return code, said.getvalue()


def overlook_it(monkeypatch):
    compare = compare_command.compare
    monkeypatch.setattr(compare_command, "compare", lambda *given: dataclasses.replace(
        compare(*given), is_one_run=False))  # fmt: skip


@pytest.mark.claim(id="0.118", falsifier=overlook_it)
def test_a_run_that_is_held_against_itself_is_told(tmp_path, exhibit):
    """In the terminal and on the page; two runs that differ are not told so."""
    one, other = sample(), sample()
    other["claims"][0]["verdict"] = "refuted"
    told = {}
    for name, (a, b) in {"itself": (one, one), "another": (one, other)}.items():
        for path, run in ((tmp_path / "a.json", a), (tmp_path / "b.json", b)):
            path.write_text(json.dumps(run))
        html = tmp_path / "compare.html"
        code, said = answer(["compare", *map(str, (tmp_path / "a.json", tmp_path / "b.json")),
                             "-o", str(html)])  # fmt: skip
        assert code == 0, said
        told[name] = ["held against itself" in text for text in (said, html.read_text())]
    exhibit.table([[k, *map(str, v)] for k, v in told.items()], ["run", "terminal", "page"], "told")
    wanted = {"itself": [True, True], "another": [False, False]}

    says = exhibit.measured("told in the terminal and on the page", told, should_be=wanted)

    assert told == wanted, says


STAYS = [".piece", ".lens", ".panel .result", ".corrections .truth"]
READERS = {"without JavaScript": {"java_script_enabled": False}, "an old browser": {}}


def keep_it_to_yourself(monkeypatch):
    miswrite_template(monkeypatch, "header.html", "noscript>", "template>")


@pytest.mark.browser
@pytest.mark.claim(id="0.119", falsifier=keep_it_to_yourself)
def test_without_javascript_the_page_says_what_is_missing(tmp_path, exhibit):
    """Read without JavaScript, and by a browser from before gzip in scripts: the notice, what is
    in sight, and the folds and controls that would do nothing."""
    path = written(tmp_path)
    said, seen, useless = {}, {}, {}
    with chromium() as browser:
        for reads, context in READERS.items():
            opened = browser.new_page(**context)
            opened.add_init_script("delete window.DecompressionStream")
            opened.goto(path.as_uri())
            notices = opened.locator(".masthead .notice").all()
            said[reads] = [it.inner_text() for it in notices if it.is_visible()]
            seen[reads] = [name for name in STAYS if opened.locator(name).first.is_visible()]
            controls = opened.locator("[data-script], details:has([data-packed])").all()
            useless[reads] = sum(it.is_visible() for it in controls)
    exhibit.table([[reads, *words] for reads, words in said.items()], ["reader", "the page says"],
                  title="what is said to whom")  # fmt: skip
    told = {reads: len(words) for reads, words in said.items()}

    says = exhibit.measured("notices", told, should_be=dict.fromkeys(READERS, 1))

    assert told == dict.fromkeys(READERS, 1), says
    assert all("ledger" in words[0] for words in said.values()), f"the page says {said}"
    assert seen == dict.fromkeys(READERS, STAYS), f"in sight = {seen}, but should be {STAYS}"
    assert useless == dict.fromkeys(READERS, 0), f"controls that do nothing = {useless}"
