"""Experiment 0: what the suite makes of other releases of mlx and mlx-lm than those it knows."""

import dataclasses

import pytest
from packaging.version import Version

from fixtures.doubles.releases import pretend
from fixtures.doubles.suite_run import ROOT, claims_in, small_suite, start_pytest
from fixtures.doubles.suite_run import plant as plant_in_a_run
from fixtures.models import known_faults
from fixtures.models.known_faults import KnownFault
from fixtures.models.law_verdict import hold_to_law
from fixtures.models.subjects import Subject
from fixtures.provision.catalogue import Entry
from llm_spec.laws import LAWS, OBJECT_LAWS
from llm_spec.ledger.evidence import Exhibits
from llm_spec.ledger.records import Mended
from llm_spec.model import release

LAW_OF = {law.__name__: law for law in (*LAWS, *OBJECT_LAWS)}
BROKEN, OF_IT = "plamo3", "cached_is_uncached"
HEALTHY, BY_IT = "llama", "causality"


def verdict(architecture, law, told):
    """What becomes of a tiny model that is held to a law; what is recorded goes to `told`."""
    silent = Exhibits(told.append, architecture, pytest.skip)
    try:
        hold_to_law(Subject(Entry("a model", "", "", architecture=architecture)), law, silent)
    except pytest.xfail.Exception:
        return "known"
    except AssertionError:
        return "refuted"
    return "mended" if any(isinstance(it, Mended) for it in told) else "verified"


def known_for(patch, architecture, law, **bounds):
    """Let the only known fault be plamo3's, in these releases and of this architecture's law."""
    fault = next(f for f in known_faults.known_faults() if BROKEN in f.architectures)
    shows = {law: fault.laws[OF_IT]}
    only = dataclasses.replace(fault, architectures=[architecture], laws=shows, **bounds)
    patch.setattr(known_faults, "known_faults", lambda: (only,))


def know_no_release(monkeypatch):
    monkeypatch.setattr(KnownFault, "is_in", lambda self, installed: True)


@pytest.mark.claim(id="0.132", falsifier=know_no_release)
def test_a_known_fault_excuses_nothing_outside_of_its_releases(exhibit):
    """A tiny plamo3, whose fault is said to be in mlx-lm 0.30.0 and mended in 0.31.0."""
    found = {}
    for installed in ("0.29.1", "0.30.0", "0.30.7", "0.31.0", "0.32.2"):
        with pytest.MonkeyPatch.context() as patch:
            pretend(patch, mlx_lm=installed)
            known_for(patch, BROKEN, OF_IT, since="0.30.0", until="0.31.0")
            found[installed] = verdict(BROKEN, LAW_OF[OF_IT], [])
    exhibit.table(list(map(list, found.items())), ["mlx-lm", "verdict"], f"{BROKEN}'s {OF_IT}")
    known = [installed for installed in found if found[installed] == "known"]

    says = exhibit.measured("releases that it is excused in", known, should_be=["0.30.0", "0.30.7"])

    assert set(found.values()) == {"known", "refuted"}, says
    assert known == ["0.30.0", "0.30.7"], says


def know_every_release(monkeypatch):
    monkeypatch.setattr(release, "is_newer", lambda package: False)


@pytest.mark.claim(id="0.133", falsifier=know_every_release)
def test_a_fault_that_a_new_release_mends_is_told_and_fails_no_run(exhibit):
    """A law that a tiny llama keeps, and a fault that is said to break it: in the newest release
    that is known the entry is wrong, in a newer one the fault is mended."""
    newest, found = release.NEWEST["mlx-lm"], {}
    newer = f"{newest.major}.{newest.minor + 1}.0"
    for installed in (str(newest), newer):
        with pytest.MonkeyPatch.context() as patch:
            pretend(patch, mlx_lm=installed)
            known_for(patch, HEALTHY, BY_IT)
            found[installed] = verdict(HEALTHY, LAW_OF[BY_IT], told := [])
    mended = [it.says for it in told if isinstance(it, Mended)]
    exhibit.table(list(map(list, found.items())), ["mlx-lm", "verdict"], f"{HEALTHY}'s {BY_IT}")

    says = exhibit.measured("verdicts", list(found.values()), should_be=["refuted", "mended"])

    assert list(found.values()) == ["refuted", "mended"], says
    assert f"mended in mlx-lm {newer}" in mended[0], f"report of the mended fault = {mended}"


def know_older_ones(monkeypatch):
    older = {package: Version("0.1.0") for package in release.NEWEST}
    monkeypatch.setattr(release, "NEWEST", older)


@pytest.mark.claim(id="0.134", falsifier=know_older_ones)
def test_the_newest_releases_that_are_known_are_those_that_ci_installs(exhibit):
    """constraints.txt and `llm_spec.model.release`: there a fault that is mended fails."""
    from packaging.requirements import Requirement  # here: every run collects this module

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {it.name: str(it.specifier).removeprefix("==") for it in pins}
    known = {package: str(version) for package, version in release.NEWEST.items()}
    wanted = {package: pinned[package] for package in known}
    exhibit.table(list(map(list, wanted.items())), ["package", "pinned"], "constraints.txt")

    says = exhibit.measured("the newest releases that are known", known, should_be=wanted)

    assert known == wanted, says


AN_EXPECTED_FAILURE_THAT_PASSES = """
import pytest
from packaging.version import Version
from fixtures.models.known_breakage import KnownBreakage
from llm_spec.model import release

release.installed = lambda package: Version("{installed}")

@pytest.mark.xfail(strict=True, raises=KnownBreakage, reason="a value is wrong")
@pytest.mark.claim(id="1.1", falsifier=print)
def test_passes(exhibit):
    exhibit.measured("a value", 1, should_be=1)
"""
KNOW_EVERY_RELEASE = """
def pytest_configure():
    from llm_spec.model import release
    release.is_newer = lambda package: False
"""


def tell_no_release_as_newer(monkeypatch, tmp_path):
    plant_in_a_run(monkeypatch, tmp_path, KNOW_EVERY_RELEASE)


@pytest.mark.claim(id="0.140", falsifier=tell_no_release_as_newer)
def test_an_expected_failure_that_passes_fails_in_the_newest_known_release_only(exhibit, tmp_path):
    """A spec that is expected to fail and passes, in a run with an older release, with the newest
    that is known, and with a newer one: its verdict, and whether it is told as mended."""
    newest, found = str(release.NEWEST["mlx-lm"]), {}
    for installed in ("0.30.7", newest, "99.0"):
        module = AN_EXPECTED_FAILURE_THAT_PASSES.format(installed=installed)
        suite = small_suite(tmp_path / installed, module, ["1.1"])
        run = start_pytest("specs", "--report", suite / "results.json", root=suite)
        exhibit.text("".join(run.communicate())[-1000:], title=f"with mlx-lm {installed}")
        (row,) = claims_in(suite / "results.json")
        found[installed] = (row["verdict"], row["mended"], run.returncode)

    wanted = {"0.30.7": ("verified", False, 0), newest: ("refuted", False, 1),
              "99.0": ("verified", True, 0)}  # fmt: skip
    says = exhibit.measured("verdict, mended, exit code", found, should_be=wanted)

    assert found == wanted, says
