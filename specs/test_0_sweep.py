"""Experiment 0: a sweep over architectures survives what native code does to a process."""

import json

import pytest

from fixtures.doubles.suite_run import plant, start_pytest

WORKERS = [2]  # how many the sweep of this spec is given

CRASHING = """
import os

def pytest_collection_finish(session):
    from mlx_lm.models import gpt2
    gpt2.Model.__call__ = lambda *_, **__: os.abort()
"""


def sweep_in_one_process(monkeypatch):
    monkeypatch.setattr(f"{__name__}.WORKERS", [0])


@pytest.mark.slow
@pytest.mark.claim(id="0.62", falsifier=sweep_in_one_process)
def test_a_crash_is_the_verdict_of_the_architecture_that_crashed(exhibit, tmp_path, monkeypatch):
    """gpt2 is made to end its process, as a segmentation fault does; mamba2 comes after it."""
    with monkeypatch.context() as patch:
        plant(patch, tmp_path, CRASHING)
        run = start_pytest(
            "specs/test_9_laws.py", "--architectures", "-n", *WORKERS,
            "-k", "(gpt2 or mamba2) and tiny and 9.12",
            "--report", tmp_path / "results.json",
        )  # fmt: skip
    said = "".join(run.communicate())
    exhibit.text(said[-2000:], title="a sweep in which gpt2 crashes")
    try:
        rows = json.loads((tmp_path / "results.json").read_text())["claims"]
    except FileNotFoundError:
        rows = []
    ran = {row["subject"]: row["verdict"] for row in rows if row["verdict"] != "not run"}
    found = {"exit code": run.returncode, **ran}
    wanted = {"exit code": 1, "gpt2 (tiny)": "refuted", "mamba2 (tiny)": "verified"}

    says = exhibit.measured("what the sweep found", found, should_be=wanted)

    assert found == wanted, says
