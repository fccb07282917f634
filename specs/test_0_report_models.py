"""Experiment 0: a report on many models, and what it says to a reader with another machine."""

import re
import sys
from html import unescape

import pytest

from fixtures.doubles.browser import unfolded, visit
from fixtures.doubles.report_sample import exhibit_of, many_models, miswrite, sample, written
from fixtures.models import seeds
from llm_spec.ledger import closing, results, terminal
from llm_spec.ledger.claims import Claim
from llm_spec.ledger.records import About, Fault, Noise
from llm_spec.ledger.results import Report
from llm_spec.numerics import device
from llm_spec.report import entries
from llm_spec.report.page import render_report
from llm_spec.report.payload import FILE_LIMIT

MATRIX_ROWS = "[...document.querySelectorAll('.matrix tbody tr')]"
ROWS_OF_A_CLAIM = re.compile(r'<tr data-subjects="([^"]*)" data-verdict="([^"]*)">')
CLAIMS = re.compile(r'<li id="claim-([^"]+)"(.*?)</li>', re.DOTALL)


def forget_the_seeds(monkeypatch):
    monkeypatch.setattr(seeds, "seeds", dict)


@pytest.mark.claim(id="0.42", falsifier=forget_the_seeds)
def test_the_method_section_tells_all_that_a_figure_may_depend_on(exhibit):
    """Everything that the section must name, with the values of this run."""
    run = results.Results({"9.9": Claim("9.9", "Water is wet", "law", "-", "it is dried")})
    noise = Noise("logits of a repeated pass", 3e-7)
    run.add(Report("passed", [About("9.9", "tiny-llama"), noise, Fault("a spec", red=True)]))
    about = results.environment("pytest specs/ -n 2", "some BLAS", False, "today", seeds.seeds())

    html = render_report(run.document(about))
    section = html[html.index('<section id="method"') :]
    wanted = {
        "command": "pytest specs/ -n 2",
        "versions": results.version("mlx-lm"),
        "device": device.kind_and_name(),
        "BLAS": "some BLAS",
        "seeds": "seed of weights of tiny-llama",
        "tolerances": "the same sums in another order, 30 layers, float32",
        "noise floors": "measured by claim 9.9 on tiny-llama",
        "kill rate": "1 of 1",
    }
    missing = [name for name, text in wanted.items() if text not in section]
    exhibit.table(list(map(list, wanted.items())), columns=["what", "as"], title="looked for")

    says = exhibit.measured("missing", missing, should_be=[])

    assert missing == [], says


def read_one_column_further_left(monkeypatch):
    miswrite(monkeypatch, "matrix.js", "laws[cell.cellIndex - 1]",
             "laws[Math.max(0, cell.cellIndex - 2)]")  # fmt: skip


@pytest.mark.browser
@pytest.mark.claim(id="0.43", falsifier=read_one_column_further_left)
def test_the_table_of_laws_by_models_tells_what_the_results_say(tmp_path, exhibit):
    """Every cell by arrow keys, then the filters; each against the results."""
    whole = many_models(models=9, laws=6)
    rows = {(c["subject"], c["id"]): c for c in whole["claims"] if c["id"].startswith("9.")}
    laws = sorted({law for _, law in rows})
    shown, expected = {}, {}
    with visit(written(tmp_path, whole)) as visited:
        reader = visited.page
        models = reader.evaluate(f"{MATRIX_ROWS}.map((row) => row.cells[0].textContent)")
        reader.locator(".matrix td").first.focus()
        for down, model in enumerate(models):
            across = laws if down % 2 == 0 else laws[::-1]
            for at, law in enumerate(across):
                shown[model, law] = reader.locator(".matrix .readout").text_content()
                expected[model, law] = readout(rows[model, law])
                last = at == len(laws) - 1
                step = "ArrowDown" if last else "ArrowLeft" if down % 2 else "ArrowRight"
                reader.keyboard.press(step)
        left = filtered(reader)
    expected_left = {
        "broken by no known fault": [m for m in models if unknown(rows, m, laws)],
        "one law broken": [m for m in models if rows[m, "9.12"]["verdict"] == "refuted"],
        "named so": ["architecture_5"],
    }
    wrong = [f"{pair}: {said}" for pair, said in shown.items() if said != expected[pair]]
    exhibit.table([[*pair, said] for pair, said in shown.items()], ["model", "law", "on the page"],
                  title="read by arrow keys")  # fmt: skip

    says = exhibit.measured("cells read wrongly", wrong, should_be=[])

    assert len(shown) == len(rows) == 54, f"{len(shown)} of {len(rows)} pairs were read"
    assert wrong == [], says
    assert left == expected_left, f"left by filters = {left}, but should be {expected_left}"


def readout(row):
    why = row["measured"] if row["verdict"] == "verified" else row["reason"]
    why = f"known: {why}" if row["known"] else why
    return f"{row['subject']} · {row['id']} {row['says']}: {row['verdict']}: {why}"


def unknown(rows, model, laws):
    """Whether the model breaks a law by a fault that nobody knew."""
    found = (rows[model, law] for law in laws)
    return any(r["verdict"] == "refuted" and not r["known"] for r in found)


def filtered(reader):
    """The models left by each of three filters."""
    names = f"{MATRIX_ROWS}.filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
    form = reader.locator(".matrix form")
    form.locator("[name=kind]").select_option("refuted")
    left = {"broken by no known fault": reader.evaluate(names)}
    form.locator("[name=kind]").select_option("refuted known")
    form.locator("[name=law]").select_option("2")
    left["one law broken"] = reader.evaluate(names)
    form.locator("[name=kind]").select_option("")
    form.locator("[name=model]").fill("ture_5")
    left["named so"] = reader.evaluate(names)
    return left


def tell_one_by_one(monkeypatch):
    for module in (entries, terminal):
        monkeypatch.setattr(module, "FEW", sys.maxsize)


@pytest.mark.claim(id="0.44", falsifier=tell_one_by_one)
def test_thousands_of_verdicts_stay_readable(exhibit):
    """Ledger rows per claim, terminal lines per claim, and verdicts lost."""
    whole = many_models()
    page = render_report(whole)
    html = unfolded(page)
    told = {
        (unescape(claim), subject, verdict)
        for claim, entry in CLAIMS.findall(html)
        for subjects, verdict in ROWS_OF_A_CLAIM.findall(entry)
        for subject in unescape(subjects).split("\n")
    }
    true = {(c["id"], c["subject"], c["verdict"]) for c in whole["claims"]}
    longest = max(len(ROWS_OF_A_CLAIM.findall(entry)) for _, entry in CLAIMS.findall(html))
    printed = terminal.render(terminal.ledger_of(as_rows(whole)), 1000, colour=False)
    lines = len(printed.splitlines()) / len({claim for claim, _, _ in true})
    unknown_faults = [c for c in whole["claims"] if c["reason"] and "0.3, but" in c["reason"]]
    silent = [c["subject"] for c in unknown_faults if not named_in(printed, c)]
    exhibit.table(
        [["verdicts", len(true)], ["bytes of the page", len(page.encode())],
         ["most rows per claim", longest], ["terminal lines per claim", lines]],
        ["what", "how much"], title=f"{len(true):,} verdicts",
    )  # fmt: skip

    says = exhibit.measured("most ledger rows per claim", longest, should_be="at most 40")

    assert longest <= 40, says
    assert lines <= 20, f"terminal lines per claim = {lines:.0f}, but should be at most 20"
    assert told == true, f"verdicts lost or made up = {len(told ^ true)}, but should be 0"
    assert silent == [], f"new faults missing in the terminal = {silent}, but should be none"
    assert len(page.encode()) <= FILE_LIMIT, f"bytes = {len(page):,}, but should be fewer"


def leave_refutations_out(monkeypatch):
    monkeypatch.setattr(closing, "_refuted", lambda rows: [])


SCREEN = 40  # lines of 80 columns


@pytest.mark.claim(id="0.74", falsifier=leave_refutations_out)
def test_the_end_of_a_run_fits_a_screen_and_tells_every_new_refutation(exhibit):
    """Thousands of verdicts on one screen, plus every new fault."""
    rows = as_rows(many_models())
    new = [row for row in rows if row.verdict == "refuted" and not row.known]
    rest = [row for row in rows if row not in new]
    ends = {
        name: terminal.render(closing.closing(some, {}, None, []), width, colour=False)
        for name, some, width in (("no new fault", rest, 80), ("all", rows, 1000))
    }
    exhibit.text(ends["no new fault"], title="the end of a run without a new fault")
    lines = len(ends["no new fault"].splitlines())
    silent = [row.subject for row in new if row.subject not in ends["all"]]

    exhibit.measured("lines", lines, should_be=f"at most {SCREEN}")
    says = exhibit.measured("models whose new fault is missing", silent, should_be=[])

    assert new, "new faults = 0, but should be more"
    assert lines <= SCREEN, f"lines = {lines}, but should be at most {SCREEN}"
    assert silent == [], says


def as_rows(whole):
    """The rows from which the terminal's summary is made."""
    return [
        results.Row(
            Claim(c["id"], c["says"], c["kind"], "-", c["falsifier"], c["corrects"]), c["subject"],
            [c["verdict"]], c["measured"], c["expected"], c["reason"], c["known"],
        )
        for c in whole["claims"]
    ]  # fmt: skip


def named_in(printed, claim):
    """Whether the terminal tells this fault, with the subject's name before it."""
    return any(
        re.search(rf"\b{claim['subject']}\b", line) and claim["reason"] in line
        for line in printed.splitlines()
    )


def forget_the_cache(monkeypatch):
    miswrite(monkeypatch, "kinds/fit.js", "model.weights_bytes + (model.kv_bytes[at] ?? 0)",
             "model.weights_bytes")  # fmt: skip


MACHINES = [(5.2, 100), (8, 100), (32, 100), (32, 400), (128, 819.2)]  # GB as sold, GB/s


@pytest.mark.browser
@pytest.mark.claim(id="0.45", falsifier=forget_the_cache)
def test_the_fit_table_answers_for_the_machine_that_the_reader_types(tmp_path, exhibit):
    """Two models on five machines; the first of them holds the weights but not the cache.

    Each has two ceilings, and the head of the table says for which context each is."""
    whole = sample()
    fit = exhibit_of(whole, "fit")
    shown, expected = [], []
    with visit(written(tmp_path, whole)) as visited:
        panel = visited.page.locator(".fit").first
        panel.scroll_into_view_if_needed()
        for memory, bandwidth in MACHINES:
            panel.get_by_label("memory").fill(str(memory))
            panel.get_by_label("bandwidth").fill(str(bandwidth))
            for at, model in enumerate(fit["models"]):
                cells = panel.locator("tbody tr").nth(at).locator("td").all_inner_texts()
                given = [memory, bandwidth, model["name"]]
                shown.append([*given, *(cell.strip() for cell in cells[1:])])
                expected.append([*given, *answer(model, fit["usable_share"], memory, bandwidth)])
        heads = panel.locator("thead th").all_inner_texts()[-2:]
    exhibit.table(shown, ["memory (GB)", "bandwidth (GB/s)", "model", "fits", *heads],
                  title="answers")  # fmt: skip

    says = exhibit.measured("answers", shown, should_be=expected)

    assert {row[3] for row in expected} == {"✓ fits", "✗ too large"}, (
        "expected answers are all the same, but should differ"
    )
    assert shown == expected, says
    contexts = ["tokens per second, empty cache", "tokens per second, 2,048 tokens cached"]
    assert heads == contexts, f"heads of the ceilings = {heads}, but should be {contexts}"


def answer(model, share, memory, bandwidth):
    """Whether weights and cache fit in what a program may take, and how fast they can be read."""
    need = model["weights_bytes"] + model["kv_bytes"][0]
    if need > memory * 2**30 * share:
        return "✗ too large", "–", "–"
    reads = model["read_bytes"], model["read_bytes"] + model["kv_bytes"][0]
    return "✓ fits", *(f"≤ {bandwidth * 1e9 / read:.3g}" for read in reads)


def listen_to_nobody(monkeypatch):
    follows = 'top.addEventListener("change", () => show(top.value));'
    miswrite(monkeypatch, "subjects.js", follows, "")


SHOWN_MODELS = """
[...document.querySelectorAll('.panel[data-choices]')].map((panel) => [...new Set(
  [...panel.querySelectorAll('[data-subject]')].filter((it) => !it.hidden)
    .map((it) => it.dataset.subject))].join())
"""


@pytest.mark.browser
@pytest.mark.claim(id="0.46", falsifier=listen_to_nobody)
def test_the_model_that_was_picked_is_shown(tmp_path, exhibit):
    """The models in sight, a list with one entry per panel: at first, and after each choice."""
    with visit(written(tmp_path)) as visited:
        reader = visited.page
        shown = {"at first": reader.evaluate(SHOWN_MODELS)}
        reader.locator("#subject").select_option("model-b")
        shown["at the top"] = reader.evaluate(SHOWN_MODELS)
        reader.locator(".panel .picker.here select").first.select_option("0")
        shown["in the first panel"] = reader.evaluate(SHOWN_MODELS)
    panels = len(shown["at first"])
    exhibit.table([[k, ", ".join(v)] for k, v in shown.items()], ["picked", "shown"], "models")

    expected = {
        "at first": ["model-a"] * panels,
        "at the top": ["model-b"] * panels,
        "in the first panel": ["model-a"] + ["model-b"] * (panels - 1),
    }
    says = exhibit.measured("models in sight", shown, should_be=expected)

    assert panels >= 5, f"panels with a choice = {panels}, but should be more"
    assert shown == expected, says
