"""Experiment 7: the rule that recommends a model, and the plan's recommendations."""

import argparse
import json
from math import comb, sqrt

import pytest

from fixtures.texts import jobs
from fixtures.texts.seeds import REPLIES
from llm_spec.cli import choose as choose_command
from llm_spec.ledger import results
from llm_spec.quality import answering, assistant, selection
from llm_spec.quality.selection import Candidate

# ── The rule ──────────────────────────────────────────────────────────────────────────────────


def candidate(name, passed, reply_s=5.0, fits=True, control=False):
    low, high = assistant.wilson(passed, 20)
    return Candidate(name, passed, 20, low, high, fits, reply_s, 30.0, 10**9, control)


LINE_UP = (
    candidate("fast and poor", 4, reply_s=1.0),
    candidate("good and in time", 16),
    candidate("as good and slower", 16, reply_s=6.0),
    candidate("better, but too slow", 18, reply_s=30.0),
    candidate("best, but does not fit", 20, fits=False),
    candidate("a control", 0, reply_s=None, control=True),
)


def prefer_the_fast(monkeypatch):
    monkeypatch.setattr(Candidate, "rate", property(lambda each: -each.reply_s))


@pytest.mark.claim(id="7.30", falsifier=prefer_the_fast)
def test_the_best_of_those_that_fit_and_answer_in_time_is_recommended(exhibit):
    """Quality first; speed decides between equals; a control that does a job voids the result."""
    choice = selection.choose(LINE_UP)
    exhibit.text("\n".join((choice.rule, *choice.reasons)), title="the rule and its reasons")
    fooled = selection.choose((*LINE_UP, candidate("a control that is believed", 5, control=True)))

    says = exhibit.measured("recommended", choice.recommended, should_be="good and in time")

    assert fooled.recommended is None, (
        f"recommended by a fooled judge = {fooled.recommended}, but should be None"
    )
    assert choice.recommended == "good and in time", says


def a_results_file(path, schema=results.SCHEMA, sources="the same jobs", name="a model"):
    """Results of one run with one candidate, written as the suite writes them."""
    trials = assistant.ask(answering.constant("no"), jobs.the_four(), [0])
    entry = {"kind": "candidates", "title": "", "sources": sources}
    entry["candidates"] = [assistant.candidate(name, trials)]
    path.write_text(json.dumps({"schema": schema, "claims": [{"exhibits": [entry]}]}))
    return path


def read_any_schema(monkeypatch):
    monkeypatch.setattr(selection, "SCHEMAS", (1, 2, 3))


@pytest.mark.claim(id="7.31", falsifier=read_any_schema)
def test_results_that_cannot_be_compared_are_refused_in_a_sentence(tmp_path, capsys, exhibit):
    """Other schema, other jobs, the same model twice, no candidates, no results: exit code 2."""
    good = a_results_file(tmp_path / "good.json")
    empty = tmp_path / "empty.json"
    empty.write_text('{"schema": 1, "claims": []}')
    torn = tmp_path / "torn.json"
    torn.write_text('{"schema": 1')
    cases = {
        "another schema": [a_results_file(tmp_path / "schema.json", schema=3, name="other")],
        "other jobs": [good, a_results_file(tmp_path / "jobs.json", sources="x", name="other")],
        "one model twice": [good, good],
        "no candidates": [empty],
        "half a file": [torn],
        "no file": [tmp_path / "none.json"],
    }
    said = {}
    for case, paths in cases.items():
        code = choose_command.run(
            argparse.Namespace(
                results=paths, memory=None, within=10.0, tokens=150.0, measure=None, replies=False
            )
        )
        said[case] = (code, capsys.readouterr().err.strip().replace(str(tmp_path), "…"))
    exhibit.table(
        [[case, code, sentence] for case, (code, sentence) in said.items()],
        columns=["results", "exit code", "sentence"],
        title="refusals",
    )  # fmt: skip
    refused = [
        c for c, (code, text) in said.items() if code == 2 and text.count("\n") == 0 and text
    ]

    says = exhibit.measured("cases refused", len(refused), should_be=len(cases))

    assert selection.candidates_in([good]), "what the suite writes today is refused"
    assert len(refused) == len(cases), says


def go_by_the_normal_approximation(monkeypatch):
    def wald(passed, tried, z=1.96):
        rate = passed / tried
        return rate - z * sqrt(rate * (1 - rate) / tried), rate + z * sqrt(
            rate * (1 - rate) / tried
        )

    monkeypatch.setattr(assistant, "wilson", wald)


@pytest.mark.claim(id="7.32", falsifier=go_by_the_normal_approximation)
def test_a_95_percent_interval_holds_the_true_pass_rate_95_times_in_100(exhibit):
    """Exact coverage of 12 trials, averaged over true rates from 1 to 99 %."""
    tried = 12
    intervals = [assistant.wilson(passed, tried) for passed in range(tried + 1)]
    rates = [percent / 100 for percent in range(1, 100)]
    covered = [
        sum(
            comb(tried, passed) * rate**passed * (1 - rate) ** (tried - passed)
            for passed, (low, high) in enumerate(intervals)
            if low <= rate <= high
        )
        for rate in rates
    ]
    exhibit.curve(
        rates, {"Wilson's interval": covered},
        title="coverage of the interval", x_axis="true pass rate", y_axis="share",
    )  # fmt: skip
    mean = sum(covered) / len(covered)

    says = exhibit.measured("mean coverage of the interval", mean, should_be="0.94 to 0.97")

    assert 0.94 <= mean <= 0.97, says


# ── What the plan recommends ──────────────────────────────────────────────────────────────────


def rates_of(subject):
    """How many answers to each job did it, of how many; under DONE, of all jobs."""
    found = assistant.candidate(subject.name, jobs.answers_of(subject))
    return {each["name"]: (each["passed"], each["tried"]) for each in found["criteria"]}


def most_of(passed, tried):
    return passed > tried / 2


def let_a_constant_answer(monkeypatch):
    trials = assistant.ask(answering.constant("Thank you."), jobs.the_four(), REPLIES)
    monkeypatch.setattr(jobs, "answers_of", lambda subject: trials)


@pytest.mark.real
@pytest.mark.claim(id="7.33", falsifier=let_a_constant_answer)
def test_qwen3_8b_does_each_of_the_four_jobs_most_of_the_time(models, exhibit):
    """The plan's first choice, for summaries, extraction and following instructions."""
    rates = rates_of(models["qwen3-8b"])
    done = {job.name: rates[job.name] for job in jobs.the_four()}

    says = exhibit.measured("answers that do each job", done, should_be="over half of each job's")

    assert all(most_of(*each) for each in done.values()), says


@pytest.mark.real
@pytest.mark.claim(id="7.34", falsifier=let_a_constant_answer)
def test_llama_3_2_3b_replies_and_summarises_most_of_the_time(models, exhibit):
    """The plan's choice for speed: simple tasks such as e-mail replies and quick summaries."""
    rates = rates_of(models["llama-3.2-3b"])
    done = {name: rates[name] for name in ("reply", "summarise")}

    says = exhibit.measured("answers that do each job", done, should_be="over half of each job's")

    assert all(most_of(*each) for each in done.values()), says


@pytest.mark.real
@pytest.mark.claim(id="7.35", falsifier=let_a_constant_answer)
def test_qwen3_14b_does_noticeably_more_jobs_than_qwen3_8b(models, exhibit):
    """The plan's stretch goal. Noticeably: the two 95 % intervals do not overlap."""
    done = {name: rates_of(models[name])[assistant.DONE] for name in ("qwen3-8b", "qwen3-14b")}
    (_, below), (above, _) = (assistant.wilson(*each) for each in done.values())

    says = exhibit.measured("answers that do a job", done, should_be="separate intervals")

    assert below < above, says
