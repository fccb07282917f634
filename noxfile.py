"""Sweeps with other releases of mlx-lm, each in an environment of its own.

    make releases                                    the last eight, and docs/releases.md
    nox -s "sweep(0.31.3)"                           one of them
    nox -s "sweep(0.31.3)" -- --architectures llama  what pytest is told there
    nox -s newest                                    the newest of NEWEST, and what that changes
    nox -s bisect -- a_long_prompt_is_cached llama4  the first release that judges it as the newest

Environments are kept. A sweep that this commit finished is not run again.
"""

import re
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llm_spec.ledger.claims import read_ledger
from llm_spec.report.load import load_results
from llm_spec.report.releases import first_alike, sweep_in

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True

BEFORE_5 = {"transformers": "4.57.1", "huggingface_hub": "0.36.0", "tokenizers": "0.22.1"}
# Releases of mlx-lm, and what they are given beside constraints.txt: the MLX that they ask for, and
# transformers 4 where they were written for it.
RELEASES = {
    "0.28.0": {"mlx": "0.29.1", **BEFORE_5},
    "0.28.4": {"mlx": "0.29.2", **BEFORE_5},
    "0.29.1": {"mlx": "0.29.2", **BEFORE_5},
    "0.30.6": {"mlx": "0.30.4"},
    "0.30.7": {"mlx": "0.30.4"},
    "0.31.1": {"mlx": "0.30.4"},
    "0.31.2": {"mlx": "0.30.4"},
    "0.31.3": {"mlx": "0.31.2"},
    "0.32.0": {"mlx": "0.32.2"},
    "0.32.1": {"mlx": "0.32.2"},
    "0.32.2": {},
}
ALSO = ("httpx2", "sentencepiece")
"""What newer releases of libraries bring along."""
LAST = 8
NEWEST = ("mlx", "mlx-cpu", "mlx-lm", "transformers", "tokenizers", "huggingface_hub")
EXTRAS = ("blas", "report")
HERE = Path(__file__).parent


@nox.session
@nox.parametrize("release", list(RELEASES), ids=list(RELEASES))
def sweep(session: nox.Session, release: str) -> None:
    """pytest with one release: a whole sweep, or what follows `--`."""
    install(session, release)
    told = session.posargs
    report = saved(session, release)
    if not told and report.exists() and "dirty" not in report.parent.name:
        session.log(f"{report} is there")
        return
    whole = ["--architectures", "--report", str(report)]
    # What is refuted is a result. So is that a release has no such architecture, and that the law
    # says nothing there: codes 4 and 5 of pytest.
    codes = [0, 1, 4, 5] if told else [0, 1]
    # Processes that compile at once may end, with older releases of MLX nearly always.
    session.run(
        "pytest", "specs/", "-q", "--tb=line", "-n", "auto", *(told or whole),
        success_codes=codes, env={"MLX_DISABLE_COMPILE": "1"},
    )  # fmt: skip


def install(session: nox.Session, release: str | None) -> None:
    """What pyproject.toml asks for, in the versions of constraints.txt, but with this release of
    mlx-lm and what it asks for; with "" exactly so, with None with the newest of `NEWEST`."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(it for name in EXTRAS for it in extras[name])]
    wanted = [str(without_bounds(Requirement(requirement))) for requirement in asked]
    pins = {"mlx-lm": release, **RELEASES[release]} if release else {}
    if "mlx" in pins:
        pins["mlx-cpu"] = pins["mlx"]
    pinned = re.findall(r"^([\w.-]+)==(\S+)", (HERE / "constraints.txt").read_text(), re.M)
    free = NEWEST if release is None else ()
    lines = [f"{name}=={pins.get(name, version)}" for name, version in pinned if name not in free]
    constraints = Path(session.create_tmp()) / f"constraints-{release or len(free)}.txt"
    constraints.write_text("\n".join(lines))
    session.install("-c", str(constraints), *wanted, *ALSO, *(["--upgrade"] if free else []))
    session.install("--no-deps", "-e", ".")  # only_specs, which pytest loads first


def without_bounds(requirement: Requirement) -> Requirement:
    """The same package, extras and markers: which version, the constraints say."""
    requirement.specifier = SpecifierSet()
    return requirement


@nox.session
@nox.parametrize("pinned", [True, False], ids=["pinned", "newest"])
def versions(session: nox.Session, pinned: bool) -> None:
    """pytest with the versions of constraints.txt, or with the newest of `NEWEST`."""
    install(session, "" if pinned else None)
    name = "pinned" if pinned else "newest"
    told = [*session.posargs, "--report", str(saved(session, name))]
    session.run("pytest", "specs/", "-q", "--tb=line", *told, success_codes=[0, 1])


@nox.session(venv_backend="none")
def newest(session: nox.Session) -> None:
    """What the newest releases change for the claims; pytest is told what follows `--`."""
    for name in ("pinned", "newest"):
        session.run("nox", "-s", f"versions({name})", "--", *session.posargs)
    reports = [str(saved(session, name)) for name in ("pinned", "newest")]
    session.run("llm-spec", "compare", *reports, success_codes=[0, 1])


@nox.session(venv_backend="none")
def releases(session: nox.Session) -> None:
    """Sweeps of the last eight releases, or of those that follow `--`, and docs/releases.md."""
    names = session.posargs or list(RELEASES)[-LAST:]
    for release in names:
        session.run("nox", "-s", f"sweep({release})")
    reports = [str(saved(session, release)) for release in names]
    session.run("llm-spec", "releases", *reports, "-o", "docs/releases.md")


@nox.session(venv_backend="none")
def bisect(session: nox.Session) -> None:
    """The first release in which a law is judged on an architecture as in the newest."""
    law, architecture = session.posargs
    ledger = read_ledger(HERE / "specs" / "claims.toml")
    claim = next((it.id for it in ledger.values() if it.law == law), law)
    report = Path(session.create_tmp()) / "bisected.json"

    def verdict(release: str) -> str:
        report.unlink(missing_ok=True)
        told = ["--architectures", architecture, "--claim", claim, "-n", "0"]
        session.run("nox", "-s", f"sweep({release})", "--", *told, "--report", str(report))
        if not report.exists():
            return "no such architecture"
        found = sweep_in(load_results(report)).verdicts.get((claim, architecture), "not run")
        session.log(f"mlx-lm {release}: {found}")
        return found

    found = first_alike(list(RELEASES), verdict)
    if found is None:
        session.log(f"{law} of {architecture} is judged alike in the first and the last release")
    else:
        session.log("mlx-lm {}: {}; mlx-lm {}: {}".format(*found))


def saved(session: nox.Session, release: str) -> Path:
    """Where a sweep of this commit is kept."""
    commit = session.run(
        "git", "describe", "--always", "--dirty", external=True, silent=True, log=False
    )  # fmt: skip
    folder = HERE / ".releases" / str(commit).strip()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{release}.json"
