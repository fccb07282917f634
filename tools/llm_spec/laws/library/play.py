"""Random plays of a stateful object: hypothesis finds one that fails and tells the fewest moves.

A machine is a `RuleBasedStateMachine` whose rules act on an object of mlx-lm and on its definition
side by side. It raises `Missed` where the two part. Plays are the same in every run: their seed is
the machine itself, and nothing is kept between runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llm_spec.laws.finding import Finding, same, within
from llm_spec.numerics.distances import worst

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine


class Missed(AssertionError):
    """The object is not what its definition says: how far from it, or what it was instead."""

    def __init__(self, measured: float | str) -> None:
        super().__init__(measured)
        self.measured = measured


class Distances:
    """The distances that the plays of one machine have shown so far."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.worst = 0.0

    def note(self, distance: float) -> None:
        """Remember a distance. Raises Missed where it is NaN or larger than the bound."""
        if not distance <= self.bound:
            raise Missed(distance)
        self.worst = worst([self.worst, distance])


def rng_of(seed: int) -> np.random.Generator:
    """What a play draws its keys and values from: only its moves are hypothesis' to choose."""
    return np.random.default_rng(seed)


def play_within(
    what: str, machine: type[RuleBasedStateMachine], seen: Distances, plays: int, moves: int
) -> Finding:
    """Whether all plays of `machine` keep the distances in `seen` within their bound."""
    failure = shortest_failure(machine, plays, moves)
    if failure is None:
        return within(what, seen.worst, seen.bound)
    return within(f"{what}, after {_moves_of(failure)}", float(failure.measured), seen.bound)


def play_same(
    what: str, machine: type[RuleBasedStateMachine], expected: str, plays: int, moves: int
) -> Finding:
    """Whether no play of `machine` gives something else than `expected`."""
    failure = shortest_failure(machine, plays, moves)
    if failure is None:
        return same(what, expected, expected)
    return same(f"{what}, after {_moves_of(failure)}", failure.measured, expected)


def shortest_failure(machine: type[RuleBasedStateMachine], plays: int, moves: int) -> Missed | None:
    """The simplest play that hypothesis finds to fail; None where all plays hold.

    Any other exception of a play is raised as it came, with the moves in its notes.
    """
    from hypothesis import HealthCheck, Phase, settings  # here: a second, for those who play only
    from hypothesis.stateful import run_state_machine_as_test

    how = settings(
        max_examples=plays, stateful_step_count=moves, derandomize=True, database=None,
        deadline=None, suppress_health_check=list(HealthCheck), print_blob=False,
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
    )  # fmt: skip
    try:
        run_state_machine_as_test(machine, settings=how)
    except Missed as failure:
        return failure
    return None


def _moves_of(failure: Missed) -> str:
    """The calls that hypothesis notes, `state.feed(length=5)`, as one line: `feed(length=5)`."""
    notes: Sequence[str] = getattr(failure, "__notes__", ())
    calls = [note.removeprefix("state.") for note in notes if note.startswith("state.")]
    return "; ".join(call for call in calls if call != "teardown()")
