"""Experiment 0: recorded facts belong to a subject.

Each run is pytest in a process of its own, on a suite of one spec.
"""

import pytest

from fixtures.doubles.suite_run import plant, small_suite, start_pytest

ONE_FACT = """
import pytest

@pytest.mark.claim(id="9.1")
def test_a_fact(snapshot):
    assert 1 == snapshot
"""

RECORDED = "# serializer version: 1\n# name: test_a_fact\n  1\n# ---\n"
LEFT_OVER = "# name: test_that_is_gone\n  2\n# ---\n"

RUNS = {  # what is recorded of the suite, of another subject, and the exit code
    "nothing is left over": (RECORDED, "", pytest.ExitCode.OK),
    "a fact of this subject is left over": (
        RECORDED + LEFT_OVER,
        "",
        pytest.ExitCode.TESTS_FAILED,
    ),
    "facts of another subject are recorded": (RECORDED, RECORDED, pytest.ExitCode.OK),
}


def look_at_all_subjects(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins.snapshots import PerSubject
    from syrupy.extensions.amber import AmberSnapshotExtension
    PerSubject.discovery_dirname = AmberSnapshotExtension.dirname
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.150", falsifier=look_at_all_subjects)
def test_facts_of_a_subject_that_did_not_run_are_not_unused(exhibit, tmp_path):
    """The exit code of each run: red only where the subject that ran has a fact too many."""
    codes = {}
    for what, (own, others, _) in RUNS.items():
        suite = small_suite(tmp_path / what, ONE_FACT, ["9.1"])
        for subject, text in {"suite": own, "another": others}.items():
            recorded = suite / "specs/__snapshots__" / subject / "test_small.ambr"
            recorded.parent.mkdir(parents=True)
            recorded.write_text(text, encoding="utf-8")
        run = start_pytest("specs", root=suite)
        run.communicate()
        codes[what] = run.returncode
    exhibit.table(
        [[*each] for each in codes.items()],
        ["what is recorded", "exit code"],
        title="runs of one spec",
    )

    wanted = {what: int(code) for what, (*_, code) in RUNS.items()}
    says = exhibit.measured("exit codes", codes, should_be=wanted)

    assert codes == wanted, says
