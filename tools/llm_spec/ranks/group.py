"""The side of the parent: starts one process per rank, asks all of them, and ends all of them."""

from __future__ import annotations

import json
import os
import random
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from llm_spec.numerics import blas
from llm_spec.processes.leash import Leash
from llm_spec.ranks.mpi import Mpi
from llm_spec.ranks.nccl import Nccl
from llm_spec.ranks.process import Failure, RankProcess
from llm_spec.ranks.ring import Ring, is_taken

PATIENCE = 120.0  # seconds until all ranks are there: a slow, busy machine needs 20 for the imports
GRACE = 1.0  # seconds that others have after the first failure, to tell more of it
POLL = 0.005  # seconds
PLACES: dict[str, type[Ring | Nccl | Mpi]] = {"ring": Ring, "nccl": Nccl, "mpi": Mpi}
"""Where ranks meet, by MLX's names of backends."""


class RanksFailed(Exception):
    """A rank failed. The text names the rank and the cause, in one sentence; no process is left."""


class Ranks:
    """Processes, one per rank, that answer the same messages in lockstep.

    They are ended with the object, or with this process, however it ends.

    Args:
        program: what each rank runs; it calls `member.serve`.
        backend: MLX's name of what they meet through: `ring`, `mpi` with Open MPI, or `nccl` with
            a GPU for each. A rank alone meets nobody.
        ports: one per rank; by default free ones.
        seconds: how long it may take until all ranks have joined.
        grace: seconds that the other ranks have after the first failure.

    Raises:
        ValueError: fewer than one rank, another number of ports, too few GPUs, or no Open MPI.
        RanksFailed: a port is taken, or a rank did not join.
    """

    def __init__(
        self, program: Sequence[str], count: int, backend: str = "ring", ports: Sequence[int] = (),
        seconds: float = PATIENCE, grace: float = GRACE,
    ) -> None:  # fmt: skip
        if count < 1:
            raise ValueError(f"{count} ranks cannot share a model: ask for 1 or more.")
        if ports and len(ports) != count:
            raise ValueError(f"{count} ranks need {count} ports, but {len(ports)} are given.")
        for rank, port in enumerate(ports):
            if is_taken(port):
                raise RanksFailed(f"Port {port} of rank {rank} is in use: name another, or none.")
        place = PLACES.get(backend, Ring)(count, ports)
        self._grace = grace
        self.processes: list[RankProcess] = []
        leash = Leash()
        self.close = weakref.finalize(self, _end, self.processes, leash, place)
        run = random.SystemRandom().getrandbits(30)
        try:
            for rank in range(count):
                environment = {**os.environ, **_computing(count), **place.environment(rank)}
                self.processes.append(RankProcess(program, rank, environment))
                leash.hold(self.processes[-1].pid)
            _compare_versions(self._collect(seconds, "start"))
            self._ask({"backend": backend, "run": run, "count": count}, seconds, "join")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether they can be asked. After a failure nobody can."""
        return self.close.alive

    def ask(self, message: Mapping[str, Any], seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """What each rank answers, in the order of ranks.

        Raises:
            RanksFailed: a rank ended, raised an error or did not answer within `seconds`.
        """
        return self._ask(message, seconds, "answer")

    def _ask(self, message: Mapping[str, Any], seconds: float, do: str) -> list[dict[str, Any]]:
        for each in self.processes:
            each.send(json.dumps(message))
        return self._collect(seconds, do)

    def _collect(self, seconds: float, do: str) -> list[dict[str, Any]]:
        """The next answer of each rank. Raises `RanksFailed`, and ends all of them."""
        answers: dict[int, dict[str, Any]] = {}
        failures: dict[int, Failure] = {}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for each in self.processes:
                if each.rank in answers.keys() | failures.keys():
                    continue
                found = each.look()
                if isinstance(found, Failure):
                    until = min(until, time.monotonic() + self._grace)
                    failures[each.rank] = found
                elif found is not None:
                    answers[each.rank] = found
            if len(answers) == len(self.processes):
                return [answers[each.rank] for each in self.processes]
            if len(answers) + len(failures) == len(self.processes):
                break
            time.sleep(POLL)
        late = [str(each.rank) for each in self.processes if each.rank not in answers]
        who = f"Rank {late[0]}" if len(late) == 1 else f"Ranks {', '.join(late)}"
        says = cause(failures.values()) if failures else f"{who} did not {do} in {seconds:g} s"
        self.close()
        raise RanksFailed(f"{says} [of {len(self.processes)} ranks; all are ended].")


def cause(failures: Iterable[Failure]) -> str:
    """The failure that others follow from: a process that was killed, else the first one that is
    not about the end of another. Of ranks that say the same, the first is named."""
    failures = list(failures)
    first = min(failures, key=lambda each: each.order)
    return str(min((it for it in failures if it.did == first.did), key=lambda each: each.rank))


def _computing(count: int) -> dict[str, str]:
    """The BLAS that all ranks multiply with on a CPU, whose cores they share."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    return {**blas.environment(), "OMP_NUM_THREADS": threads}


def _compare_versions(told: list[dict[str, Any]]) -> None:
    first, *others = (each["versions"] for each in told)
    for rank, versions in enumerate(others, 1):
        if versions != first:
            raise RanksFailed(
                f"Rank {rank} has {_shown(versions)}, but rank 0 {_shown(first)}: install the "
                "same everywhere."
            )


def _shown(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _end(processes: list[RankProcess], leash: Leash, place: Ring | Nccl | Mpi) -> None:
    for each in processes:
        each.kill()
    for each in processes:
        each.close()
    leash.close()
    place.close()
