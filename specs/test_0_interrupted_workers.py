"""Experiment 0: what an interrupted run asks of its workers, and what it puts away for them.

All run pytest in a process of its own. Faults are planted there as a plugin that PYTEST_ADDOPTS
names.
"""

import time

import psutil
import pytest

from fixtures.doubles.sleeping_suite import ASLEEP, FOUND_ONE, wait_until_asleep
from fixtures.doubles.suite_run import in_workers, plant, small_suite, start_pytest


def leave_it_to_pytest_xdist(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():  # the workers have told their process ids by then
    from fixtures.plugins import workers
    workers.PID = ".none"
""")  # fmt: skip


XDIST_WAITS = 5.0  # seconds
INTERRUPTED_AT = "interrupted at"
SLEEPS_IN_A_WORKER = f"""
import pathlib, pytest, sys, time

@pytest.mark.claim(id="9.2")
def test_that_sleeps(capfd):
    with capfd.disabled():
        print("{ASLEEP}", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    finally:
        pathlib.Path("{INTERRUPTED_AT}").write_text(str(time.time()))
"""


@pytest.mark.slow
@pytest.mark.claim(id="0.244", falsifier=leave_it_to_pytest_xdist)
def test_an_interrupted_run_does_not_wait_for_its_workers(exhibit, tmp_path):
    """SIGTERM to the controller alone, while a worker's spec sleeps. The spec notes when that
    interrupts it: pytest-xdist gives it five seconds first."""
    suite = small_suite(tmp_path / "suite", SLEEPS_IN_A_WORKER, ["9.2"])
    run = start_pytest("specs", *in_workers(1), root=suite)
    wait_until_asleep(run.stderr)
    asked = time.time()
    run.terminate()
    exhibit.text("".join(run.communicate())[-1000:], title="an interrupted run")
    waited = float((suite / INTERRUPTED_AT).read_text()) - asked

    most = XDIST_WAITS / 2
    says = exhibit.measured("seconds until the spec is interrupted", waited, f"at most {most}")

    assert run.returncode == 2, f"exit code = {run.returncode}, but should be 2"
    assert waited <= most, says


def put_them_side_by_side(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
import tempfile
make = tempfile.mkdtemp
tempfile.mkdtemp = lambda suffix=None, prefix=None, dir=None: make(suffix, prefix)
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.234", falsifier=put_them_side_by_side)
def test_no_folder_of_a_worker_is_left_after_sigterm(monkeypatch, exhibit, tmp_path):
    """The workers can put nothing away. The folders are those that a run makes for views of models,
    and for what workers tell."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    suite = small_suite(tmp_path / "suite", FOUND_ONE, ["9.1", "9.2"])
    run = start_pytest("specs", *in_workers(1), root=suite)
    wait_until_asleep(run.stderr)
    during = list(temporary.rglob("llm-spec-*"))
    workers = psutil.Process(run.pid).children()
    for worker in workers:
        worker.kill()
    run.terminate()
    run.communicate()
    left = list(temporary.glob("llm-spec-*"))
    columns = ["workers", "folders during the run", "folders left"]
    exhibit.table([[len(workers), len(during), len(left)]], columns, title="after SIGTERM")
    says = exhibit.measured("folders left", len(left), should_be=0)

    assert len(workers) == 1, f"{len(workers)} workers, but should be 1"
    assert during, "the run made no folder"
    assert not left, says
