"""Experiment 7: the guard that tells a slow-down from noise, and the benchmarks that it reads."""

import json
import random
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from fixtures.doubles.refusals import is_one_sentence
from llm_spec.cli.command_line import main
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


DEVICE = "a device"


def file_of_benchmarks(*given):
    """What pytest-benchmark writes of one benchmark with these shares."""
    info = {"shares": given, "device_class": DEVICE}
    return json.dumps({"benchmarks": [{"name": "one", "extra_info": info}]})


def file_of_baselines(*given):
    return json.dumps({DEVICE: {"one": given}})


RIGHT = [1.0] * 5
UNREADABLE = {
    "cut off": b'{"benchmarks": [',
    "no text": b"\xff\xfe",
    "nested too deep": b"[" * 200_000,
    "a list": b"[1]",
    "an object of another kind": b'{"one": 1}',
}
BENCHMARKS_REFUSED = UNREADABLE | {
    "no file": None,
    "no benchmark": b'{"benchmarks": []}',
    "a share that is no number": file_of_benchmarks(*RIGHT, float("nan")).encode(),
    "a share below 0": file_of_benchmarks(*[-1.0] * 5).encode(),
}
BASELINES_REFUSED = UNREADABLE | {
    "a share that is no number": file_of_baselines(*[float("nan")] * 5).encode(),
    "a share below 0": file_of_baselines(*[-1.0] * 5).encode(),
}


def believe_every_share(monkeypatch):
    monkeypatch.setattr(regression, "_positive", lambda values: [float(value) for value in values])


@pytest.mark.claim(id="0.230", falsifier=believe_every_share)
def test_the_guard_refuses_what_it_cannot_compare(monkeypatch, exhibit, tmp_path, capsys):
    """Each file in the place of the benchmarks or of the baselines; the other one is right."""
    monkeypatch.chdir(tmp_path)
    now, known = Path("now.json"), Path("baselines.json")
    rows, wrong = [], []

    def guarded(what, code_wanted, *options):
        before = known.read_bytes() if known.exists() else None
        code = main(["guard", str(now), str(known), *options])
        said = capsys.readouterr().err.strip()
        rows.append([*what, code, said])
        kept = (known.read_bytes() if known.exists() else None) == before
        told = is_one_sentence(said) if code_wanted else not said
        if code != code_wanted or not told or not kept:
            wrong.append((*what, code, said))

    known.write_text(file_of_baselines(*RIGHT))
    for mistake, held in BENCHMARKS_REFUSED.items():
        now.write_bytes(held) if held is not None else now.unlink(missing_ok=True)
        guarded(("benchmarks", mistake), 2)
        guarded(("benchmarks, --update", mistake), 2, "--update")
    now.write_text(file_of_benchmarks(*RIGHT))
    guarded(("benchmarks", "nothing"), 0)
    for mistake, held in BASELINES_REFUSED.items():
        known.write_bytes(held)
        guarded(("baselines", mistake), 2)
        guarded(("baselines, --update", mistake), 2, "--update")
    known = Path("no folder/baselines.json")
    guarded(("baselines, --update", "no folder"), 2, "--update")
    exhibit.table(rows, columns=["file", "mistake", "exit code", "said"], title="refusals")

    says = exhibit.measured("files that end otherwise", wrong, should_be=[])

    assert not wrong, says


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
    now, again, baselines = (tmp_path / f"{name}.json" for name in ("now", "again", "baselines"))
    saving = [*BENCHMARKS, f"--benchmark-storage={tmp_path}"]
    steps = {
        "save": run("pytest", *saving, "--benchmark-save=first", f"--benchmark-json={now}"),
        "compare": run("pytest", *saving, "--benchmark-compare=0001", f"--benchmark-json={again}"),
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
    found, later = (
        json.loads(file.read_text())["benchmarks"] if file.exists() else [] for file in (now, again)
    )
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
    classes = {b["extra_info"]["device_class"] for b in [*found, *later]}
    assert len(classes) == 1, f"classes of this device = {sorted(classes)}, but should be one"
    assert "(0001_first" in steps["compare"].stdout, says
