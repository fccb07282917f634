"""Experiment 0: Ctrl-C and SIGTERM end a run at once, and the results so far are kept.

All run pytest in a process of its own. Faults are planted there as a plugin that PYTEST_ADDOPTS
names.
"""

import json
import signal
import sys

import pytest

from fixtures.doubles.sleeping_suite import ASLEEP, FOUND_ONE, SLEEPS, wait_until_asleep
from fixtures.doubles.suite_run import claims_in, in_workers, plant, small_suite, start_pytest


def die_at_once(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
import signal
def pytest_collection():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.30", falsifier=die_at_once)
def test_an_interrupted_run_still_writes_what_it_found(exhibit, tmp_path):
    """Ctrl-C after the first verdict: the report holds that verdict and is marked as partial."""
    report = tmp_path / "results.json"
    run = start_pytest("specs/test_2_tokenizer.py", "-v", "--report", report)
    for line in run.stdout:
        if "PASSED" in line:
            break
    run.send_signal(signal.SIGINT)
    run.communicate()
    written = json.loads(report.read_text()) if report.exists() else {}
    verdicts = [claim["verdict"] for claim in written.get("claims", [])]
    count = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    exhibit.bars(count, title="what was written", axis="rows")
    partial = written.get("environment", {}).get("partial")
    outcome = run.returncode, partial, {"verified", "not run"} <= {*verdicts}

    says = exhibit.measured(
        "exit code, partial, holds what ran and what did not", outcome, should_be=(2, True, True)
    )

    assert outcome == (pytest.ExitCode.INTERRUPTED, True, True), says


CATCHES = f"""
    try:
        print("{ASLEEP}", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
DROPS = f"""
    class Slow:
        def __del__(self):
            print("{ASLEEP}", flush=True)
            time.sleep(60)
    Slow()
"""
LEAVES_A_FILE_OPEN = f"""
    print(open(__file__), print("{ASLEEP}", flush=True), time.sleep(60))
"""
HAS_NO_LINE = f"""
    def sleep():
        print("{ASLEEP}", flush=True)
        time.sleep(60)
    sleep.__code__ = sleep.__code__.replace(co_linetable=b"")
    sleep()
"""
HARD_OF_HEARING = """
import pytest, time

@pytest.mark.claim(id="9.1")
def test_that_swallows_an_interrupt():{how}

@pytest.mark.claim(id="9.2")
def test_that_comes_next():
    pass
"""

INTERRUPTED = {  # how a spec meets the interrupt, its body, its verdict
    "caught": (CATCHES, "verified"),
    "dropped in a finaliser": (DROPS, "verified"),
    "raised, with a file left open": (LEAVES_A_FILE_OPEN, "not run"),
    "raised at an instruction without a line": (HAS_NO_LINE, "not run"),
}


def forget_the_interrupt(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins.interruption import Interruption
    Interruption.asked = property(lambda self: False, lambda self, asked: None)
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.73", falsifier=forget_the_interrupt)
def test_an_interrupt_that_is_swallowed_still_ends_the_run(exhibit, tmp_path):
    """Caught by a library, lost in a finaliser, or raised where it is in the way: exit code 2."""
    ends = {}
    for how, (body, _) in INTERRUPTED.items():
        report = tmp_path / f"{how}.json"
        suite = small_suite(tmp_path / how, HARD_OF_HEARING.format(how=body), ["9.1", "9.2"])
        run = start_pytest("specs", "-s", "--report", report, root=suite)
        for line in run.stdout:
            if ASLEEP in line:
                break
        run.send_signal(signal.SIGINT)
        run.communicate()
        verdicts = [claim["verdict"] for claim in claims_in(report)]
        ends[how] = (run.returncode, *verdicts)
    columns = ["the interrupt is", "exit code", "this spec", "the next"]
    exhibit.table([[how, *end] for how, end in ends.items()], columns, title="interrupted runs")

    code = int(pytest.ExitCode.INTERRUPTED)
    wanted = {how: (code, verdict, "not run") for how, (_, verdict) in INTERRUPTED.items()}
    says = exhibit.measured("exit codes and verdicts", ends, should_be=wanted)

    assert ends == wanted, says


def leave_sigterm_alone(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_configure():
    import signal
    from fixtures.plugins import interruption
    interruption.LEFT_ALONE.pop(signal.SIGTERM)
""")  # fmt: skip


ENDED = {  # how many workers run the specs, and by which signal the run is ended
    "SIGTERM, in this process": (0, signal.SIGTERM),
    "SIGTERM, in a worker": (1, signal.SIGTERM),
    "SIGHUP, in this process": (0, signal.SIGHUP),
}


@pytest.mark.slow
@pytest.mark.claim(id="0.228", falsifier=leave_sigterm_alone)
def test_sigterm_ends_a_run_as_ctrl_c_does(exhibit, tmp_path):
    """One spec is done and the next one sleeps: exit code 2, and the first has its verdict."""
    ends = {}
    for how, (workers, signum) in ENDED.items():
        report = tmp_path / f"{how}.json"
        suite = small_suite(tmp_path / how, FOUND_ONE, ["9.1", "9.2"])
        run = start_pytest("specs", *in_workers(workers), "--report", report, root=suite)
        wait_until_asleep(run.stderr)
        run.send_signal(signum)
        run.communicate()
        ends[how] = (run.returncode, *(claim["verdict"] for claim in claims_in(report)))
    columns = ["ended by", "exit code", "the first spec", "the next"]
    exhibit.table([[how, *end] for how, end in ends.items()], columns, title="ended runs")

    wanted = dict.fromkeys(ends, (int(pytest.ExitCode.INTERRUPTED), "verified", "not run"))
    says = exhibit.measured("exit codes and verdicts", ends, should_be=wanted)

    assert ends == wanted, says


def write_it_all_the_same(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_configure():
    from fixtures.plugins.reporter import Reporter
    Reporter._found_nothing = lambda self: False
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.241", falsifier=write_it_all_the_same)
def test_an_interrupted_run_that_checked_nothing_leaves_the_report_of_another(exhibit, tmp_path):
    """Ctrl-C while the first spec sleeps, with --report naming the file of an earlier run."""
    report = tmp_path / "results.json"
    report.write_text("the results of an hour")
    suite = small_suite(tmp_path / "suite", f"import pytest\n{SLEEPS}", ["9.2"])
    run = start_pytest("specs", "--report", report, root=suite)
    wait_until_asleep(run.stderr)
    run.send_signal(signal.SIGINT)
    exhibit.text("".join(run.communicate())[-1000:], title="an interrupted run")
    found = run.returncode, report.read_text()[:40]

    says = exhibit.measured("exit code and report", found, should_be=(2, "the results of an hour"))

    assert found == (2, "the results of an hour"), says


AT_THE_END = """
import os, signal, time
from llm_spec.report import destination
write = destination.write

def interrupted(document, path):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    write(document, path)

destination.write = interrupted
"""
GIVES_UP = """
def pytest_configure():
    from fixtures.plugins.interruption import Interruption
    Interruption.is_ending = property(lambda self: False, lambda self, ends: None)
"""
LEFT_OUT: list[str] = []


def give_the_report_up(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LEFT_OUT", [GIVES_UP])


@pytest.mark.slow
@pytest.mark.claim(id="0.242", falsifier=give_the_report_up)
def test_a_report_that_is_being_written_is_finished(exhibit, tmp_path):
    """SIGTERM reaches a run whose last spec is done, right before its file is written."""
    report, done = tmp_path / "results.json", FOUND_ONE.replace("time.sleep(60)", "pass")
    suite = small_suite(tmp_path / "suite", done, ["9.1", "9.2"])
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, tmp_path, "\n".join([AT_THE_END, *LEFT_OUT]))
        run = start_pytest("specs", "--report", report, root=suite)
    exhibit.text("".join(run.communicate())[-1000:], title="a run that is ended at its end")
    found = run.returncode, [claim["verdict"] for claim in claims_in(report)]
    wanted = (0, ["verified", "verified"])

    says = exhibit.measured("exit code and verdicts", found, should_be=wanted)

    assert found == wanted, says
