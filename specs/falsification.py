"""What a planted fault proves: a spec is run without its fault, then with it, and both are held
beside each other."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest

from fixtures.plugins import missing_here
from fixtures.plugins.collection import REASONS
from fixtures.plugins.healthy_runs import GREEN
from llm_spec.ledger.evidence import Exhibits
from llm_spec.ledger.records import Measured

NOT_RUN = (pytest.skip.Exception, pytest.xfail.Exception)
RECORDERS = {"exhibit", "snapshot"}


@dataclass(frozen=True)
class Claimed:
    """A spec that carries a claim, and what is planted to prove it.

    An expected failure is red already, so it names with `mended` the repair under which it is
    green. Its fault is planted beside the repair; without a fault of its own the repair is left
    out.
    """

    spec: Callable[..., None]
    falsifier: Callable[..., Any] | None
    mended: Callable[..., Any] | None = None
    fails: bool = False
    """Whether it is an expected failure."""


@dataclass(frozen=True)
class Run:
    """How one run of a spec ended, and the sentences that it measured."""

    ended: Literal["green", "red", "control", "raised", "skipped"]
    said: str = ""
    measured: list[str] = field(default_factory=list)


def claimed_specs(tiers):
    """Every spec that carries a claim and runs with these tiers, as parameters called by the
    claim's id."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = import_module(f"specs.{path.stem}")
        whole = getattr(module, "pytestmark", None)
        for name, function in vars(module).items():
            for spec, marks in variants(function) if name.startswith("test_") else ():
                marks |= {whole.name: whole} if whole else {}
                if "claim" in marks:
                    claim = dict(marks["claim"].kwargs)
                    needed = [tier for tier in REASONS if tier in marks]
                    if not tiers.issuperset(needed):
                        continue  # pytest needs 0.2 ms for each, also if it does not run
                    planted = claim.get("falsifier"), claim.get("mended"), "xfail" in marks
                    told = [marks[tier] for tier in needed]
                    yield pytest.param(Claimed(spec, *planted), id=claim["id"], marks=told)


def variants(spec):
    """The spec and its marks; where it is held to many laws, once for each of them."""
    marks = {mark.name: mark for mark in getattr(spec, "pytestmark", ())}
    if "parametrize" not in marks:
        yield spec, marks
        return
    for each in marks["parametrize"].args[1]:
        (law,) = each.values
        held = partial(spec, law=law)
        held.__name__ = f"{spec.__name__}_{law.__name__}"
        yield held, marks | {mark.name: mark for mark in each.marks}


def fixtures_of(claimed):
    """The fixtures that a spec and its faults name, except what records their evidence."""
    functions = filter(None, (claimed.spec, claimed.falsifier, claimed.mended))
    signatures = [inspect.signature(function).parameters.values() for function in functions]
    names = {each.name for given in signatures for each in given if each.default is each.empty}
    return names - RECORDERS - {"claimed", "request"}


def call(function, given):
    """Call `function` with the fixtures that it names."""
    names = inspect.signature(function).parameters.keys() & given.keys()
    return function(**{name: given[name] for name in names})


class Remembered:
    """Stands in for syrupy's snapshot: learns from the healthy run, compares in the faulty one."""

    def __init__(self):
        self.facts, self.learning, self.moved = [], True, False

    def __eq__(self, other):
        if self.learning:
            self.facts.append(other)
            return True
        same = other == self.facts.pop(0)
        self.moved |= not same
        return same

    __hash__ = None


def run(spec, given, snapshot, plant=None):
    """Plant a fault, if there is one, and run the spec. What is planted stays planted."""
    seen = []

    def measured():
        return [record for record in seen if isinstance(record, Measured)]

    def ended(how, said=""):
        return Run(how, said, [record.says for record in measured()])

    try:
        changed = (call(plant, given) if plant else None) or {}
        recorders = {"exhibit": Exhibits(seen.append, "planted fault", pytest.skip)}
        call(spec, {**given, **changed, **recorders, "snapshot": snapshot})
    except NOT_RUN as reason:
        return ended("skipped", str(reason))
    except AssertionError as failure:
        own = tuple(
            _on_one_line(f"{each.says}, but should be {each.expected} [") for each in measured()
        )
        said = _on_one_line(str(failure))  # pytest indents the lines of a message
        return ended("red" if said.startswith(own) else "control", said)
    except Exception as error:
        if lacks := missing_here.lacking(error):
            return ended("skipped", lacks)
        return ended("raised", f"{type(error).__name__}: {error}")
    return ended("green")


def objection(healthy, faulty, moved=False):
    """Why two runs of a spec prove nothing; None if the fault turned it red for its own reason.

    Args:
        moved: whether the facts of the faulty run differ from the snapshot of the healthy one.
    """
    if healthy.ended in ("red", "control", "raised"):
        return f"{healthy.ended} without its fault, too: {healthy.said}"
    if faulty.ended == "green":
        return "nothing: it stayed green"
    if faulty.ended == "control":
        return f"another assert than that of its measured value failed: {faulty.said}"
    if faulty.ended != "red":
        return f"it was {faulty.ended}, not refuted: {faulty.said}"
    # What is measured stands first in the sentence, and in no healthy run.
    known = [_on_one_line(what) for what in healthy.measured]
    same = any(faulty.said.startswith(f"{what}, but should be ") for what in known)
    if same and not moved:
        return f"it measured what it measures without its fault: {faulty.said}"
    return None


def trial(claimed, given, before=None):
    """The healthy and the faulty run of a spec, and why they prove nothing, if so.

    Args:
        before: the healthy run, where there was one with the same fixtures.

    Returns (objection or None, the healthy run, the faulty run).
    """
    snapshot = Remembered()
    with ExitStack() as planted:
        given = {**given, "monkeypatch": planted.enter_context(pytest.MonkeyPatch.context())}
        if claimed.mended:
            given |= call(claimed.mended, given) or {}
        with pytest.MonkeyPatch.context() as patch:
            apart = {**given, **_folder(given, "healthy"), "monkeypatch": patch}
            healthy = before or run(claimed.spec, apart, snapshot)
        if not claimed.falsifier:
            planted.close()  # as released, without the repair
            given["monkeypatch"] = planted.enter_context(pytest.MonkeyPatch.context())
        snapshot.learning = False
        faulty = run(claimed.spec, given | _folder(given, "faulty"), snapshot, claimed.falsifier)
    why = objection(healthy, faulty, snapshot.moved)
    if claimed.fails and not claimed.mended:
        why = "it is an expected failure, and nothing shows that a repair would turn it green"
    return why, healthy, faulty


def green_before(claimed, given, config):
    """The run in which the spec was green on what is given, if this process has seen one. A spec
    that is expected to fail must be run beside its repair."""
    if claimed.mended or claimed.fails:
        return None
    told = config.stash[GREEN].measured(claimed.spec, given)
    return None if told is None else Run("green", measured=told)


def _folder(given, name):
    """A folder of its own for each run, where the spec names tmp_path."""
    if "tmp_path" not in given:
        return {}
    folder = given["tmp_path"] / name
    folder.mkdir()
    return {"tmp_path": folder}


def _on_one_line(text):
    return " ".join(text.split())
