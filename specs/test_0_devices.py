"""Experiment 0: what a device or an installation lacks, and what goes wrong on it now and then."""

import contextlib
import math
import os
import subprocess
import sys

import pytest

from fixtures.models import known_faults, law_verdict
from fixtures.models.subjects import Subject
from fixtures.plugins import missing_here
from fixtures.provision.catalogue import Entry
from llm_spec.laws import Finding
from llm_spec.numerics import device

# What is raised, and whether something is missing that no model and no spec is to blame for.
RAISED = [
    (ModuleNotFoundError("No module named 'plotly'", name="plotly"), True),
    (ModuleNotFoundError("No module named 'plotty'", name="plotty"), False),
    (RuntimeError("[quantized_matmul] No implementation for problem shape: 8x8x64x4"), True),
    (RuntimeError("Recv has no CUDA implementation"), True),
    (RuntimeError("[reshape] Cannot reshape array of size 8 into shape (3,3)"), False),
    (AssertionError("Recv has no CUDA implementation"), False),
]


def excuse_every_exception(monkeypatch):
    monkeypatch.setattr(missing_here, "lacking", str)


@pytest.mark.claim(id="0.200", falsifier=excuse_every_exception)
def test_only_what_is_missing_here_is_not_run(exhibit):
    """An extra that is not installed and a kernel that MLX lacks; any other exception is red."""
    rows = [[repr(error), missing_here.lacking(error) or "–", told] for error, told in RAISED]
    exhibit.table(rows, columns=["raised", "not run because", "missing"], title="what is raised")
    wrong = [row[0] for row, (_, told) in zip(rows, RAISED, strict=True) if (row[1] != "–") != told]

    says = exhibit.measured("exceptions with another verdict", wrong, should_be=[])

    assert wrong == [], says


def take_it_for_steady(monkeypatch):
    steady = [f.__class__(**{**vars(f), "erratic": False}) for f in known_faults.known_faults()]
    monkeypatch.setattr(known_faults, "known_faults", lambda: tuple(steady))


# What determinism measures of olmoe on a kind of device, and the verdict.
PASSES = [
    ("cuda", 0.0, "verified"),
    ("cuda", 1.8, "known"),
    ("cuda", math.inf, "refuted"),
    ("cpu", 1.8, "refuted"),
]


@pytest.mark.claim(id="0.201", falsifier=take_it_for_steady)
def test_a_fault_that_shows_now_and_then_excuses_no_more_than_itself(exhibit, monkeypatch):
    """olmoe's experts on CUDA: a pass that is right contradicts nothing, one that is wrong is
    known, one that is not finite is new; elsewhere nothing is excused."""
    seen = []
    for kind, measured, _ in PASSES:
        monkeypatch.setattr(device, "kind", lambda kind=kind: kind)

        def determinism(case, measured=measured):
            return Finding(
                "distance of a repeated pass", measured, "0", measured == 0, "determinism"
            )

        law = determinism
        law.__name__ = "determinism"
        subject = Subject(Entry("olmoe", "", "", architecture="olmoe"))
        try:
            law_verdict.hold_to_law(subject, law, exhibit)
            seen.append("verified")
        except pytest.xfail.Exception:
            seen.append("known")
        except AssertionError:
            seen.append("refuted")
    exhibit.table(
        [[*each[:2], verdict] for each, verdict in zip(PASSES, seen, strict=True)],
        columns=["device", "distance of a repeated pass", "verdict"], title="olmoe",
    )  # fmt: skip

    says = exhibit.measured("verdicts", seen, should_be=[verdict for *_, verdict in PASSES])

    assert seen == [verdict for *_, verdict in PASSES], says


def run_it_all_the_same(monkeypatch):
    others = [fault for fault in known_faults.known_faults() if not fault.ends_process]
    monkeypatch.setattr(known_faults, "known_faults", lambda: tuple(others))


@pytest.mark.claim(id="0.204", falsifier=run_it_all_the_same)
def test_a_law_that_would_end_the_process_is_not_run(exhibit, monkeypatch):
    """minimax_m3_vl's prompt cache, saved on CUDA, ends the process; on a CPU it is saved."""
    subject = Subject(Entry("minimax_m3_vl", "", "", architecture="minimax_m3_vl"))
    ran = []

    def saved_cache_continues(case):
        ran.append(device.kind())
        return Finding("distance", 0.0, "0", holds=True, law="saved_cache_continues")

    for kind in ("cuda", "cpu"):
        monkeypatch.setattr(device, "kind", lambda kind=kind: kind)
        with contextlib.suppress(pytest.skip.Exception):
            law_verdict.hold_to_law(subject, saved_cache_continues, exhibit)

    says = exhibit.measured("devices on which the law ran", ran, should_be=["cpu"])

    assert ran == ["cpu"], says


# Threads that a matrix product starts beside the one that MLX computes in.
MULTIPLY = """
import sys
from llm_spec.numerics import blas
using = blas.preload(processes=int(sys.argv[1]))
import mlx.core as mx, psutil
mx.eval(mx.ones(2) + 1)
before = psutil.Process().num_threads()
mx.eval(mx.ones((1024, 1024)) @ mx.ones((1024, 1024)))
print(using, psutil.Process().num_threads() - before, sep="; ")
"""
BESIDE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def tell_each_that_it_is_alone(monkeypatch):
    monkeypatch.setitem(globals(), "MULTIPLY", MULTIPLY.replace("int(sys.argv[1])", "1"))


@pytest.mark.claim(id="0.211", falsifier=tell_each_that_it_is_alone)
def test_processes_side_by_side_share_the_processors(exhibit):
    """Threads that a product of two matrices, 1,024 wide, starts: in a process that computes alone,
    and in one of as many as there are processors."""
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    rows = []
    for processes in (1, BESIDE):
        command = [sys.executable, "-c", MULTIPLY, str(processes)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        using, _, more = run.stdout.strip().rpartition("; ")
        rows.append([processes, using, int(more)])
    exhibit.table(rows, columns=["processes", "BLAS", "further threads"], title="one product")
    if BESIDE == 1 or not rows[0][2]:
        pytest.skip(f"a product takes one thread here in any case ({rows[0][1]})")

    says = exhibit.measured("further threads of one of many processes", rows[1][2], should_be=0)

    assert rows[1][2] == 0, says
