"""Experiment 0: a fault that turned its claim red need not be planted again with the same code.

Each run is pytest in a process of its own, on a suite of one spec, with a cache of its own.
"""

import pytest

from fixtures.doubles.suite_run import claims_in, plant, small_suite, start_pytest

PROVES = """
import pytest

@pytest.mark.claim(id="9.1")
def test_that_a_fault_turns_red(exhibit):
    exhibit.fault(test_that_a_fault_turns_red, red={red})
"""


def forget_the_code(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins import proofs
    proofs.fingerprint = lambda root: "the same for every code"
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.94", falsifier=forget_the_code)
def test_a_fault_is_planted_once_per_code(exhibit, monkeypatch, tmp_path):
    """Five runs of a suite of one spec, the change before each run, and the verdict."""
    for name in ("XDG_CACHE_HOME", "HOME"):  # Linux, and macOS
        monkeypatch.setenv(name, str(tmp_path / "home"))
    suite = small_suite(tmp_path / "suite", PROVES.format(red=False), ["9.1"])
    spec = suite / "specs/test_small.py"
    before_each_run = {
        "its fault stays green": (lambda: None, (), "verified"),
        "the same code": (lambda: None, (), "verified"),
        "now the fault turns red": (
            lambda: spec.write_text(PROVES.format(red=True)),
            (),
            "verified",
        ),
        "the same code again": (lambda: None, (), "not run"),
        "a line was added": (lambda: spec.write_text(spec.read_text() + "\n"), (), "verified"),
    }
    found = {}
    for what, (change, options, _) in before_each_run.items():
        change()
        report = tmp_path / "results.json"
        start_pytest("specs", "--report", report, *options, root=suite).communicate()
        found[what] = [claim["verdict"] for claim in claims_in(report)]
        report.unlink(missing_ok=True)
    exhibit.table([[what, *verdicts] for what, verdicts in found.items()], ["run", "verdict"],
                  title="five runs of a suite of one spec")  # fmt: skip

    wanted = {what: [verdict] for what, (_, _, verdict) in before_each_run.items()}
    says = exhibit.measured("verdicts", found, should_be=wanted)

    assert found == wanted, says
