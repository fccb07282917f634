"""Experiment 0: a figure that was measured beside other programs says so."""

import subprocess
import sys
import time

import psutil
import pytest

from llm_spec.performance import others
from llm_spec.performance.others import OtherPrograms

SECONDS = 1.0


LOOP = """
import os
started_by = os.getppid()
while os.getppid() == started_by:  # it ends with this process, also when that is killed
    pass
"""


def see_no_other_program(monkeypatch):
    monkeypatch.setattr(others, "_busy_seconds", time.process_time)


@pytest.mark.claim(id="0.129", falsifier=see_no_other_program)
def test_a_program_beside_a_measurement_is_seen(exhibit):
    """A program that loops on one core beside this one, which loops, too."""
    beside = subprocess.Popen([sys.executable, "-c", LOOP])
    try:
        seen = OtherPrograms()
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            pass
        cores = seen.share * psutil.cpu_count()
    finally:
        beside.kill()
        beside.wait()
    exhibit.table([["cores", cores], ["warning", seen.warning or "none"]], ["", "seen"], "beside")

    says = exhibit.measured("cores that another program uses", cores, should_be="at least 0.4")

    # Two programs share a core where the machine has no other to give: each then gets a half.
    assert cores >= 0.4, says
    quiet, busy = (others.said_of(share) for share in (0.05, 0.8))
    assert quiet is None, f"said at 5 % = {quiet}, but should be nothing"
    assert "80%" in busy, f"said at 80 % = {busy}, but should be a warning with the share"
