"""Experiment 0: `llm-spec choose` measures each assistant once, also by jobs of one's own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fixtures.doubles.refusals import is_one_sentence
from fixtures.doubles.suite_run import ROOT
from llm_spec.cli import candidates, command_line
from llm_spec.ledger import results
from llm_spec.quality import answering, assistant, own_jobs

# ── Measured once ───────────────────────────────────────────────────────────────────────────────

CARD = {"licence": "MIT", "languages": ["en", "de"], "context": 4096, "other_programs": 0.5}


def measuring(names, interrupted=()):
    """In place of the suite's own run: notes which model it is asked for, and writes results."""

    def start_pytest(arguments, log, look):
        name = Path(arguments[arguments.index("--model") + 1]).name
        names.append(name)
        if name in interrupted:
            raise KeyboardInterrupt
        answer = answering.Answer("yes", True, 3, 0.1, 50.0, 10**9)
        job = assistant.Job("agree", "Agree.", "", (("yes", lambda text, source: None),))
        trials = assistant.ask(lambda prompt, seeds: [answer for _ in seeds], [job], [0, 1])
        entry = assistant.candidate(name, trials, 10**8) | CARD
        exhibit = {"kind": "candidates", "title": "", "sources": "x", "candidates": [entry]}
        Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps({
            "schema": results.SCHEMA, "environment": {"partial": False},
            "claims": [{"exhibits": [exhibit]}],
        }))  # fmt: skip
        return 0

    return start_pytest


def forget_the_models_files(monkeypatch):
    monkeypatch.setattr(candidates, "_depends_on", lambda model, jobs: "000000000000")


@pytest.mark.claim(id="0.106", falsifier=forget_the_models_files)
def test_choosing_measures_each_model_once_and_goes_on_after_an_interrupt(
    tmp_path, monkeypatch, capsys, exhibit
):
    """Five runs of one command on two models: stopped at the second, again, again, once more after
    a file of the first model has changed, and after a text has changed that the jobs name."""
    monkeypatch.chdir(ROOT)
    models = [tmp_path / "first", tmp_path / "second"]
    for model in models:
        model.mkdir()
        (model / "config.json").write_text("{}")
    (tmp_path / "mail.txt").write_text("Dinner on Friday?")
    jobs = tmp_path / "jobs.toml"
    jobs.write_text(JOBS.replace('text = "Dinner on Friday?"', 'source = "mail.txt"'))
    command = ["choose", "--folder", str(tmp_path / "kept"), "--jobs", str(jobs)]
    command += ["--measure", *map(str, models)]
    asked, codes, shown = [], [], []
    for run in range(5):
        names, stops = [], ["second"] if run == 0 else []
        monkeypatch.setattr(candidates, "start_pytest", measuring(names, stops))
        if run == 3:
            os.utime(models[0] / "config.json", (1, 1))
        if run == 4:
            (tmp_path / "mail.txt").write_text("Dinner on Saturday?")
        codes.append(command_line.main(command))
        asked.append(names)
        shown.append(capsys.readouterr().out)
    exhibit.text(shown[-1], title="the recommendation")
    expected = [["first", "second"], ["second"], [], ["first"], ["first", "second"]]

    says = exhibit.measured("models measured in each run", asked, should_be=expected)

    assert asked == expected, says
    assert codes == [130, 0, 0, 0, 0], f"exit codes = {codes}, but should be 130, then 0"
    missing = [text for text in ("MIT", "en, de", "4,096 tokens", "100 MB", "50.0", "2 of 2",
               "first: other programs used 50% of the processor")
               if text not in shown[-1]]  # fmt: skip
    assert not missing, f"left out of the cards = {missing}, but should be none"


# ── One's own jobs ──────────────────────────────────────────────────────────────────────────────

JOBS = """answers = 2
[[job]]
name = "reply"
instruction = "Accept."
text = "Dinner on Friday?"
words = [2, 5]
mentions = ["Friday"]
avoids = ["sorry"]
"""
MISTAKES = {
    "not TOML": JOBS + "[[job",
    "no job": "answers = 2",
    "a misspelt setting": JOBS.replace("answers", "anwsers"),
    "a misspelt criterion": JOBS.replace("mentions", "mention"),
    "no answers": JOBS.replace("answers = 2", "answers = 0"),
    "no criterion": JOBS.partition("words")[0],
    "no instruction": JOBS.replace('instruction = "Accept."', ""),
    "a range upside down": JOBS.replace("[2, 5]", "[5, 2]"),
    "a number of words": JOBS.replace("[2, 5]", "3"),
    "words that are numbers": JOBS.replace('["Friday"]', "[5]"),
    "a text that is not there": JOBS.replace('text = "Dinner on Friday?"', 'source = "none.txt"'),
    "two texts": JOBS.replace("words =", 'source = "a"\nwords ='),
    "two jobs of one name": JOBS + JOBS.partition("\n")[2],
}
ANSWERS = {
    "Friday suits me": [],
    "Friday": ["words"],
    "Gladly, I will come": ["mentions"],
    "Sorry, not on Friday": ["avoids"],
}


def complaint(file):
    try:
        own_jobs.read_jobs(file)
    except own_jobs.BadJobs as error:
        return str(error)
    return None


def take_any_criterion(monkeypatch):
    monkeypatch.setattr(own_jobs, "FIELDS", (*own_jobs.FIELDS, "mention"))


@pytest.mark.claim(id="0.107", falsifier=take_any_criterion)
def test_a_mistake_in_ones_own_jobs_is_refused_in_one_sentence(tmp_path, exhibit):
    """A criterion that is misspelt would judge nothing. A right file judges as it says."""
    file, said = tmp_path / "jobs.toml", {}
    for mistake, text in MISTAKES.items():
        file.write_text(text)
        said[mistake] = complaint(file)
    exhibit.table(list(map(list, said.items())), columns=["mistake", "said"], title="refusals")
    accepted = [mistake for mistake, text in said.items() if not is_one_sentence(text)]
    file.write_text(JOBS)
    right = own_jobs.read_jobs(file)
    missed = {
        text: [v.criterion for v in assistant.judge(right.jobs[0], answering.Answer(text))
               if not v.met]
        for text in ANSWERS
    }  # fmt: skip

    (tmp_path / "mail.txt").write_text("Dinner on Friday?")
    guide = (ROOT / "docs/choose.md").read_text()
    file.write_text(guide.partition("```toml\n")[2].partition("```")[0])
    documented = [name for name, _ in own_jobs.read_jobs(file).jobs[0].criteria]

    says = exhibit.measured("mistakes accepted or badly told", accepted, should_be=[])

    assert not accepted, says
    assert missed == ANSWERS, f"criteria missed = {missed}, but should be {ANSWERS}"
    assert len(documented) == 5, f"criteria of the documented file = {documented}"
    assert (right.answers, right.max_tokens) == (2, 256), (
        "answers and max_tokens of the file are not read"
    )


# ── Ended from outside ──────────────────────────────────────────────────────────────────────────

WAITS = """
import sys
from contextlib import nullcontext
from pathlib import Path
from llm_spec.cli import candidates
folder = Path(sys.argv[1])
if (folder.parent / "unheeded").exists():  # a planted fault
    candidates.ended_as_by_ctrl_c = nullcontext
if (folder.parent / "let go").exists():  # another one
    candidates.Leash.hold = lambda self, pid: None
candidates.start_pytest(
    [str(folder / "test_long.py"), "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini")],
    folder / "log", lambda: None,
)
"""
FEW = 5.0  # seconds until a run is gone
LONG = """
import tempfile, time
def test():
    tempfile.mkdtemp()
    print("asleep", flush=True)
    time.sleep(60)
"""


def heed_no_signal(tmp_path):
    (tmp_path / "unheeded").touch()


def let_it_go(tmp_path):
    (tmp_path / "let go").touch()


def end_choose(within, way):
    """`choose` waits for a run that sleeps for a minute, and gets a signal: how many runs there
    were, how many are left, and how many temporary folders are."""
    folder = within / way.name
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -s\n")
    (folder / "test_long.py").write_text(LONG)
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools"), "TMPDIR": str(temporary)}
    choose = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(folder)], env=environment, stderr=subprocess.DEVNULL
    )
    runs = []
    try:
        until(lambda: (folder / "log").exists() and "asleep" in (folder / "log").read_text())
        runs = [
            each for each in psutil.Process(choose.pid).children() if "pytest" in each.cmdline()
        ]
        choose.send_signal(way)
        choose.wait(timeout=20)
        _, left = psutil.wait_procs(runs, timeout=FEW)
    finally:
        choose.kill()
        for run in runs:
            with contextlib.suppress(psutil.NoSuchProcess):
                run.kill()
    return len(runs), len(left), len(list(temporary.iterdir()))


@pytest.mark.claim(id="0.222", falsifier=heed_no_signal)
def test_nothing_of_a_run_of_choose_outlives_a_signal(tmp_path, exhibit):
    """`choose` is ended as by `kill`, and as by a terminal that is closed. The run has made a
    temporary folder, as all runs do."""
    found = {way.name: end_choose(tmp_path, way) for way in (signal.SIGTERM, signal.SIGHUP)}
    rows = [[way, *counts] for way, counts in found.items()]
    exhibit.table(rows, ["signal", "runs", "left", "folders"], title="choose is ended")
    outlive = {way: (left, folders) for way, (_, left, folders) in found.items()}
    says = exhibit.measured(
        "runs and temporary folders that outlive choose", outlive, dict.fromkeys(found, (0, 0))
    )

    assert {runs for runs, *_ in found.values()} == {1}, (
        f"signal: runs, left, folders = {found}, but choose should start one run"
    )
    assert outlive == dict.fromkeys(found, (0, 0)), says


@pytest.mark.claim(id="0.232", falsifier=let_it_go)
def test_no_run_of_choose_outlives_sigkill(tmp_path, exhibit):
    """`choose` can do nothing any more; what is beside it does."""
    runs, left, _ = end_choose(tmp_path, signal.SIGKILL)
    exhibit.table([[runs, left]], columns=["runs", "left"], title="SIGKILL")
    says = exhibit.measured("runs that outlive choose", left, should_be=0)

    assert runs == 1, f"choose started {runs} runs"
    assert left == 0, says


def until(found, seconds=30):
    """What `found` finds, once that is something."""
    for _ in range(10 * seconds):
        if seen := found():
            return seen
        time.sleep(0.1)
    raise AssertionError(f"nothing was found in {seconds} s")
