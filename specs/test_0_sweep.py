"""Experiment 0: a run in workers survives crashes of native code."""

from collections import Counter

import pytest

from fixtures.doubles import suite_run
from fixtures.doubles.suite_run import claims_in, plant, small_suite, start_pytest
from fixtures.plugins import workers

CRASHING = """
import os

def pytest_collection_finish(session):
    from mlx_lm.models import gpt2
    gpt2.Model.__call__ = lambda *_, **__: os.abort()
"""


def sweep_in_one_process(monkeypatch):
    monkeypatch.setattr(suite_run, "in_workers", lambda count: ("-n", "0"))


@pytest.mark.slow
@pytest.mark.claim(id="0.62", falsifier=sweep_in_one_process)
def test_a_crash_is_the_verdict_of_the_architecture_that_crashed(exhibit, tmp_path, monkeypatch):
    """gpt2 is made to end its process, as a segmentation fault does; mamba2 comes after it."""
    with monkeypatch.context() as patch:
        plant(patch, tmp_path, CRASHING)
        run = start_pytest(
            "specs/test_9_laws.py", "--architectures", *suite_run.in_workers(2),
            "-k", "(gpt2 or mamba2) and tiny and 9.12",
            "--report", tmp_path / "results.json",
        )  # fmt: skip
    said = "".join(run.communicate())
    exhibit.text(said[-2000:], title="a sweep in which gpt2 crashes")
    rows = claims_in(tmp_path / "results.json")
    ran = {row["subject"]: row["verdict"] for row in rows if row["verdict"] != "not run"}
    found = {"exit code": run.returncode, **ran}
    wanted = {"exit code": 1, "gpt2 (tiny)": "refuted", "mamba2 (tiny)": "verified"}

    says = exhibit.measured("verdicts of the sweep", found, should_be=wanted)

    assert found == wanted, says


LOSES_THE_DEVICE = """
def pytest_collection_finish(session):
    from mlx_lm.models import gpt2, mamba2
    lost = []

    def losing(forward, loses):
        def call(*args, **kwargs):
            lost.extend([1] * loses)
            if lost:
                raise RuntimeError("cudaMallocManaged(&data, size) failed: "
                                   "an illegal memory access was encountered")
            return forward(*args, **kwargs)
        return call

    for module in (gpt2, mamba2):
        module.Model.__call__ = losing(module.Model.__call__, module is gpt2)
"""


@pytest.mark.slow
@pytest.mark.claim(id="0.130", falsifier=sweep_in_one_process)
def test_a_lost_device_is_the_verdict_of_the_architecture_that_lost_it(
    exhibit, tmp_path, monkeypatch
):
    """gpt2 makes every later call in its process raise, as CUDA does after an illegal access to
    memory; mamba2 comes after it, in the one worker."""
    with monkeypatch.context() as patch:
        plant(patch, tmp_path, LOSES_THE_DEVICE)
        run = start_pytest(
            "specs/test_9_laws.py", "--architectures", "gpt2,mamba2", *suite_run.in_workers(1),
            "-k", "9.12", "--report", tmp_path / "results.json",
        )  # fmt: skip
    said = "".join(run.communicate())
    exhibit.text(said[-2000:], title="a sweep in which gpt2 loses the device")
    rows = claims_in(tmp_path / "results.json")
    ran = {row["subject"]: row["verdict"] for row in rows if row["verdict"] != "not run"}
    found = {"exit code": run.returncode, **ran}
    wanted = {"exit code": 1, "gpt2 (tiny)": "refuted", "mamba2 (tiny)": "verified"}

    says = exhibit.measured("what the sweep found", found, should_be=wanted)

    assert found == wanted, says


KNOWN = f"""
import pytest

@pytest.fixture
def architecture(request):
    return request.param

@pytest.mark.claim(id="9.1")
def test_that_is_not_run(architecture):
    pytest.skip("it would end the process: {workers.LOST}")

@pytest.mark.claim(id="9.2")
def test_that_is_known_to_fail(architecture):
    pytest.xfail("known of mlx: {workers.LOST}")

@pytest.mark.claim(id="9.3")
def test_that_comes_next(architecture):
    pass
"""


def take_every_mention_for_a_loss(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_configure():
    from fixtures.plugins import workers
    workers.SAYS_OF_OTHERS = ()
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.240", falsifier=take_every_mention_for_a_loss)
def test_a_reason_that_names_a_lost_device_ends_no_worker(exhibit, tmp_path):
    """One spec is not run and one fails as known, each for what elsewhere loses the device."""
    suite = small_suite(tmp_path / "suite", KNOWN, ["9.1", "9.2", "9.3"])
    report = tmp_path / "results.json"
    run = start_pytest(
        "specs", "--architectures", "gpt2", *suite_run.in_workers(1), "--report", report, root=suite
    )  # fmt: skip
    run.communicate()
    verdicts = {row["id"]: row["verdict"] for row in claims_in(report)}
    exhibit.table([*verdicts.items()], columns=["claim", "verdict"], title="a run in one worker")
    found = (run.returncode, *verdicts.values())
    wanted = (0, "not run", "refuted", "verified")

    says = exhibit.measured("exit code and verdicts", found, should_be=wanted)

    assert found == wanted, says


CRASHES = 9  # pytest-xdist gives two workers up after eight
LAWS = ["9.1", "9.2", "9.3", "9.4", "9.5"]
SMALL = f"""
import os
import pytest

@pytest.fixture
def architecture(request):
    return request.param

def claims(*ids):
    marked = [pytest.param(id_, marks=pytest.mark.claim(id=id_)) for id_ in ids]
    return pytest.mark.parametrize("number", marked)

@claims(*["0.%d" % number for number in range({CRASHES})])
def test_of_the_suite(number):
    os._exit(0)

@claims(*{LAWS})
def test_of_a_model(architecture, number):
    if architecture == "tiny-qwen3":
        os._exit(0)
"""


def give_up_after_two(monkeypatch):
    monkeypatch.setattr(suite_run, "in_workers", lambda n: ("-n", str(n), "--max-worker-restart=2"))


@pytest.mark.slow
@pytest.mark.claim(id="0.81", falsifier=give_up_after_two)
def test_however_many_workers_crash_every_claim_gets_its_verdict(exhibit, tmp_path):
    """Nine specs of the suite and one model end their process, quietly, with exit code 0."""
    numbers = [f"0.{number}" for number in range(CRASHES)]
    suite = small_suite(tmp_path / "suite", SMALL, numbers + LAWS)
    report = tmp_path / "results.json"
    run = start_pytest("specs", *suite_run.in_workers(2), "--report", report, root=suite)
    said = "".join(run.communicate())
    rows = claims_in(report)
    of_the_model = [row for row in rows if row["subject"] == "tiny-qwen3"]
    others = [row for row in rows if row["subject"] != "suite" and row not in of_the_model]
    exhibit.text(said[-2000:], title="a run in which workers crash")
    found = {
        "exit code": run.returncode,
        "the suite": Counter(row["verdict"] for row in rows if row["subject"] == "suite"),
        "other models": {row["verdict"] for row in others},
        "the model that crashes": {row["verdict"] for row in of_the_model},
        "why it was not run": {
            (row["reason"] or "not reached").partition(":")[0]
            for row in of_the_model
            if row["verdict"] == "not run"
        },
    }
    wanted = {
        "exit code": 1,
        "the suite": {"refuted": CRASHES},
        "other models": {"verified"},
        "the model that crashes": {"refuted", "not run"},
        "why it was not run": {"crashed"},
    }

    says = exhibit.measured("what the run found", found, should_be=wanted)

    assert found == wanted, says
    assert len(of_the_model) == len(LAWS), (
        f"laws reported of the model = {len(of_the_model)}, but should be {len(LAWS)}"
    )
