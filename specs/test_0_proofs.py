"""Experiment 0: what is proved with a code need not be proved again with the same one.

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
HOLDS = """
import pytest

@pytest.mark.claim(id="9.1")
def test_the_suite():
    pass

@pytest.mark.claim(id="0.1")
@pytest.mark.parametrize("varied", ["tiny"])
def test_an_instrument_on_a_model(varied):
    pass

@pytest.mark.claim(id="9.2")
@pytest.mark.parametrize("varied", ["tiny"])
def test_a_model(varied):
    pass
"""


def forget_the_code(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins import proofs
    proofs.fingerprint = lambda root: "the same for every code"
""")  # fmt: skip


def nothing():
    pass


def verdicts(suite, report, runs):
    """The verdict of each run of a suite of one spec: what changes before it, its options."""
    found = {}
    for what, (change, options, _) in runs.items():
        change()
        start_pytest(
            "specs", "--report", report, *options, root=suite, remembers=True
        ).communicate()
        found[what] = "; ".join(claim["verdict"] for claim in claims_in(report))
        report.unlink(missing_ok=True)
    return found


@pytest.mark.slow
@pytest.mark.claim(id="0.94", falsifier=forget_the_code)
def test_a_fault_is_planted_once_per_code(exhibit, tmp_path):
    """Five runs of a suite of one spec, the change before each run, and the verdict."""
    suite = small_suite(tmp_path / "suite", PROVES.format(red=False), ["9.1"])
    spec = suite / "specs/test_small.py"
    runs = {
        "its fault stays green": (nothing, (), "verified"),
        "the same code": (nothing, (), "verified"),
        "now the fault turns red": (
            lambda: spec.write_text(PROVES.format(red=True)), (), "verified",
        ),
        "the same code again": (nothing, (), "not run"),
        "a line was added": (lambda: spec.write_text(spec.read_text() + "\n"), (), "verified"),
    }  # fmt: skip
    found = verdicts(suite, tmp_path / "results.json", runs)
    exhibit.table([*found.items()], ["run", "verdict"], title="five runs of a suite of one spec")
    wanted = {what: verdict for what, (*_, verdict) in runs.items()}

    says = exhibit.measured("verdicts", found, should_be=wanted)

    assert found == wanted, says


@pytest.mark.slow
@pytest.mark.claim(id="0.223", falsifier=forget_the_code)
def test_a_claim_about_the_suite_is_checked_once_per_code_in_runs_of_everything(exhibit, tmp_path):
    """Six runs of a suite of three specs, the change before each run or its options, the verdicts:
    on an instrument that was used on a model, on the suite itself, and on that model."""
    suite = small_suite(tmp_path / "suite", HOLDS, ["9.1", "0.1", "9.2"])
    spec = suite / "specs/test_small.py"
    runs = {
        "the first": (nothing, (), "verified; verified; verified"),
        "the same code": (nothing, (), "not run; not run; verified"),
        "its claim is named": (nothing, ("--claim", "9.1"), "not run; verified; not run"),
        "everything is to be proved": (nothing, ("--prove",), "verified; verified; verified"),
        "now it fails": (
            lambda: spec.write_text(HOLDS.replace("pass", "assert not 1", 1)), (),
            "verified; refuted; verified",
        ),
        "the same code again": (nothing, (), "not run; refuted; verified"),
    }  # fmt: skip
    found = verdicts(suite, tmp_path / "results.json", runs)
    exhibit.table([*found.items()], ["run", "verdict"], title="six runs of a suite of three specs")
    wanted = {what: verdict for what, (*_, verdict) in runs.items()}

    says = exhibit.measured("verdicts", found, should_be=wanted)

    assert found == wanted, says
