"""Experiment 7: the guard that tells a slow-down from noise, and the benchmarks that it reads."""

import json
import random
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from llm_spec.numerics import timing
from llm_spec.performance import bandwidth, regression, speed

ROOT = Path(__file__).parents[1]


def noisy(rng, noise, slower=1.0, rounds=15):
    """Shares as a machine with `noise` measures them, when work takes `slower` times as long."""
    return [rng.gauss(1, noise) / slower for _ in range(rounds)]


def see_only_halving(monkeypatch):
    monkeypatch.setattr(regression, "BOUND", 0.5)


@pytest.mark.claim(id="7.8", falsifier=see_only_halving)
def test_the_guard_flags_a_fifth_more_time_and_no_noise(exhibit):
    """100 repeats at 2 % noise, unchanged and slowed down; at 15 % noise it must not decide."""
    rng = random.Random(0)
    baseline = noisy(rng, 0.02)
    cases = {
        "unchanged": lambda: regression.judge(baseline, noisy(rng, 0.02)),
        "20 % more time": lambda: regression.judge(baseline, noisy(rng, 0.02, slower=1.2)),
        "too noisy": lambda: regression.judge(baseline, noisy(rng, 0.15)),
    }
    found = {name: [judge().finding for _ in range(100)] for name, judge in cases.items()}
    findings = ("steady", "slower", "inconclusive")
    exhibit.table(
        [[name, *(seen.count(finding) for finding in findings)] for name, seen in found.items()],
        columns=["", *findings],
        title="100 repeats each",
    )
    flags = {name: seen.count("slower") for name, seen in found.items()}

    says = exhibit.measured(
        "flagged of 100", [flags["unchanged"], flags["20 % more time"]], should_be=[0, 100]
    )

    assert (flags["unchanged"], flags["20 % more time"]) == (0, 100), says
    assert found["too noisy"].count("inconclusive") >= 90, says


PLANTED = 1.2


def held_up(work, slower):
    """`work`, after which time is wasted until it took `slower` times as long."""

    def slow():
        start = speed.time.perf_counter()
        work()
        end = start + slower * (speed.time.perf_counter() - start)
        while speed.time.perf_counter() < end:
            pass

    return slow


READ = 8  # tokens in a pass
TURNS = 2  # of work and reference in one round
ROUNDS = range(15, 46)


def seconds(work):
    return timing.sample(work, rounds=1, warm_up=0).median


def share(work, reference):
    """The reference's time over that of the work. Short turns, so that both meet the same noise."""
    turns = [[seconds(each) for each in (work, reference)] for _ in range(TURNS)]
    took, beside = (sum(times) for times in zip(*turns, strict=True))
    return beside / took


def shares(work, reference):
    """As many shares as it takes to know their median twice as well as the guard has to."""
    enough = (1 - regression.BOUND) / regression.SIGMAS / 2
    found = [share(work, reference) for _ in range(ROUNDS.start)]
    while timing.Sample(tuple(found)).error > enough and len(found) < ROUNDS.stop:
        found.append(share(work, reference))
    return found


@pytest.mark.idle
@pytest.mark.claim(id="7.9", falsifier=see_only_halving)
def test_the_guard_flags_a_fifth_more_time_on_this_machine(trained, exhibit):
    """Ten repeats unchanged, ten with every pass delayed. The reference reads matrices as a pass
    does, so that what slows this machine down slows both."""
    prompt = mx.array([speed.token_ids(READ, trained.config["vocab_size"])])
    reference = bandwidth.meeting_vectors(2048, 2048, bandwidth.compute_dtype(), count=READ).call

    def passes():
        mx.eval(trained.model(prompt))

    passes()
    reference()
    baseline = shares(passes, reference)
    unchanged = [regression.judge(baseline, shares(passes, reference)) for _ in range(10)]
    planted = [
        regression.judge(baseline, shares(held_up(passes, PLANTED), reference)) for _ in range(10)
    ]
    exhibit.table(
        [[n, str(a), str(b)] for n, (a, b) in enumerate(zip(unchanged, planted, strict=True), 1)],
        columns=["repeat", "unchanged", f"{PLANTED} times the time"],
        title="what the guard says",
    )
    if any(judgement.finding == "inconclusive" for judgement in unchanged + planted):
        exhibit.inconclusive("this machine is too noisy to detect 20 % more time")
    flags = [sum(j.finding == "slower" for j in each) for each in (unchanged, planted)]

    says = exhibit.measured("flagged of ten: unchanged, slowed down", flags, should_be=[0, 10])

    assert flags == [0, 10], says


BENCHMARKS = ["--benchmark-only", "-q", "-k", "tokenizer or quantised"]
KEYS = {"device", "device_class", "dtype", "versions", "tokens", "bytes", "share", "ceiling"}


def run(*command):
    """Runs `python -m …` in the project's folder, as a person would."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def time_nothing(monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--benchmark-disable")


@pytest.mark.idle
@pytest.mark.claim(id="7.43", falsifier=time_nothing)
def test_benchmarks_are_saved_compared_and_guarded(trained, tmp_path, exhibit):
    """From the project's folder, with the options that pytest-benchmark documents, then guarded."""
    now, baselines = tmp_path / "now.json", tmp_path / "baselines.json"
    saving = [*BENCHMARKS, f"--benchmark-storage={tmp_path}"]
    steps = {
        "save": run("pytest", *saving, "--benchmark-save=first", f"--benchmark-json={now}"),
        "compare": run("pytest", *saving, "--benchmark-compare=0001"),
        "make a baseline": run("llm_spec", "guard", str(now), str(baselines), "--update"),
        "guard": run("llm_spec", "guard", str(now), str(baselines)),
    }
    exhibit.table(
        [
            [name, step.returncode, step.stdout[-2000:] + step.stderr[-500:]]
            for name, step in steps.items()
        ],
        columns=["step", "exit code", "said"],
        title="benchmarks of the tokenizer and of packed products",
    )
    found = json.loads(now.read_text())["benchmarks"] if now.exists() else []
    missing = {b["name"]: sorted(KEYS - b["extra_info"].keys()) for b in found}

    says = exhibit.measured(
        "exit codes, benchmarks, missing fields",
        (
            [step.returncode for step in steps.values()],
            len(found),
            [k for k in missing.values() if k],
        ),
        should_be=([0, 0, 0, 0], 3, []),
    )

    assert [step.returncode for step in steps.values()] == [0, 0, 0, 0], says
    assert (len(found), any(missing.values())) == (3, False), says
    assert "(0001_first" in steps["compare"].stdout, says
