"""What the processes of one host must know to meet through Open MPI: the environment that its
`mpirun` gives each rank."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SECONDS = 20.0  # until all places are there; a fraction of one on an idle machine
POLL = 0.02  # seconds
HOLDER = """
import json, os, sys, time
rank, folder, parent = os.environ["PMIX_RANK"], sys.argv[1], int(sys.argv[2])
with open(f"{folder}/{rank}.part", "w") as file:
    json.dump(dict(os.environ), file)
os.rename(f"{folder}/{rank}.part", f"{folder}/{rank}")
while True:
    os.kill(parent, 0)  # raises where the parent has ended: then so does this
    time.sleep(0.5)
"""


def mpirun() -> str:
    """Where Open MPI's `mpirun` is. Raises ValueError where there is none."""
    command = shutil.which("mpirun")
    if command is None:
        raise ValueError("mpi needs Open MPI, but no mpirun is on the PATH.")
    return command


class Mpi:
    """Places in one run of Open MPI. Its `mpirun` starts a process for each rank, which writes down
    what it is told and waits; a rank of ours takes the place of one. So it keeps its own pipes and
    exit code, and `mpirun`, which would wait for its end, only has to serve.

    Args:
        ports: not used: Open MPI chooses what it needs.

    Raises:
        ValueError: there is no `mpirun`, or it did not start.
    """

    def __init__(self, count: int, ports: Sequence[int] = ()) -> None:
        command = mpirun()
        self._folder = tempfile.TemporaryDirectory()  # see close
        self._mpirun = subprocess.Popen(
            [command, "--allow-run-as-root", "--host", f"localhost:{count}", "-n", str(count),
             sys.executable, "-c", HOLDER, self._folder.name, str(os.getpid())],
            start_new_session=True,  # Ctrl-C reaches the parent alone
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._places = [self._place(rank) for rank in range(count)]
        except BaseException:
            self.close()
            raise

    def environment(self, rank: int) -> dict[str, str]:
        """What a process needs to become this rank: what `mpirun` adds to the environment."""
        told = self._places[rank]
        added = {name: value for name, value in told.items() if os.environ.get(name) != value}
        return {**added, "MLX_RANK": str(rank)}

    def close(self) -> None:
        """End `mpirun` and what it started."""
        self._mpirun.terminate()
        try:
            self._mpirun.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._mpirun.kill()
            self._mpirun.wait()
        self._folder.cleanup()

    def _place(self, rank: int) -> dict[str, str]:
        file, until = Path(self._folder.name) / str(rank), time.monotonic() + SECONDS
        while not file.exists():
            if self._mpirun.poll() is not None or time.monotonic() > until:
                raise ValueError("mpi needs Open MPI, but its mpirun did not start the ranks.")
            time.sleep(POLL)
        told: dict[str, str] = json.loads(file.read_text())
        return told
