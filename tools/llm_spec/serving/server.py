"""A server as processes on this machine: started on loopback, and gone when it is closed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import httpx2

from llm_spec.numerics import blas
from llm_spec.processes.leash import Leash
from llm_spec.ranks.ring import Ring, free_port, is_taken
from llm_spec.text.untrusted import one_line

MLX_LM = (sys.executable, "-P", "-m", "mlx_lm", "server")  # nothing from the working directory
PATIENCE = 120.0  # seconds until it serves: a slow, busy machine needs 20 for the imports


class NotServing(Exception):
    """The server does not serve. The text says why, in one sentence."""


class Server:
    """A process that serves `model`, a directory, on loopback, or one per rank. It is ended with
    the object, or with this process, whatever ends that.

    Args:
        program: the command to which `--model`, `--host` and `--port` are added.
        port: 0 for one that is free.
        seconds: how long it may take until it says that it is healthy.
        ranks: how many processes share the model, in a ring of MLX's. The first of them answers.

    Raises:
        NotServing: the port is taken, the process ended, or it was not healthy in time. No process
            is left behind.
    """

    def __init__(
        self, model: Path, program: Sequence[str] = MLX_LM, port: int = 0,
        seconds: float = PATIENCE, ranks: int = 1,
    ) -> None:  # fmt: skip
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        if is_taken(self.port):
            raise NotServing(f"Port {self.port} is taken: name another, or none.")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        ring = Ring(ranks)
        where = ("--model", str(model), "--host", "127.0.0.1", "--port", str(self.port))
        with tempfile.TemporaryDirectory() as empty:
            # Nothing is fetched, and no hub's folder is there: nothing of the user's is listed.
            nothing = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": empty, "NO_PROXY": "127.0.0.1"}
        # With the BLAS of this process it adds in the same order as the library here.
        given = {**os.environ, **blas.environment(), **nothing}
        self._processes: list[subprocess.Popen[bytes]] = []
        leash = Leash()
        self.close = weakref.finalize(self, _end, self._processes, leash, self._log, ring)
        try:
            for rank in range(ranks):
                shared = ring.environment(rank) if ranks > 1 else {}
                self._processes.append(subprocess.Popen(
                    [*program, *where], env={**given, **shared},
                    stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
                ))  # fmt: skip
                leash.hold(self._processes[-1].pid)
            self._wait_until_healthy(seconds)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that answers."""
        return self._processes[0].pid

    @property
    def is_running(self) -> bool:
        return self._ended is None

    @property
    def _ended(self) -> "subprocess.Popen[bytes] | None":
        """A process that ended, if one did: then the others wait for it in vain."""
        return next((each for each in self._processes if each.poll() is not None), None)

    def log(self) -> str:
        """What it printed so far. Not to be trusted."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def last_words(self, seconds: float = 0.5) -> str:
        """How it ended and the last line that it printed, in one sentence; nothing if it is healthy
        or still runs after `seconds`."""
        if self._is_healthy(seconds):
            return ""
        try:
            code = (self._ended or self._processes[0]).wait(seconds)
        except subprocess.TimeoutExpired:
            return ""
        last = one_line((self.log().strip().splitlines() or ["nothing"])[-1])
        return f"The server ended with exit code {code}; it said: {last}."

    def interrupt(self, seconds: float) -> int:
        """Press Ctrl-C: the exit code. Raises `NotServing` if it still runs after `seconds`."""
        self._processes[0].send_signal(signal.SIGINT)
        try:
            return self._processes[0].wait(seconds)
        except subprocess.TimeoutExpired:
            raise NotServing(f"The server still runs {seconds:.0f} s after Ctrl-C.") from None

    def _wait_until_healthy(self, seconds: float) -> None:
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            if self._is_healthy():
                return
            if not self.is_running:
                raise NotServing(self.last_words())
            time.sleep(0.1)  # it does not listen yet
        raise NotServing(f"The server was not healthy within {seconds:g} s.")

    def _is_healthy(self, seconds: float = 1) -> bool:
        health = f"{self.url}/health"
        try:
            answer = httpx2.get(health, timeout=seconds, trust_env=False, verify=False)
        except httpx2.HTTPError:
            return False
        return self.is_running and answer.status_code == 200


def _end(processes: "list[subprocess.Popen[bytes]]", leash: Leash, *files: IO[Any] | Ring) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
    leash.close()
    for file in files:
        file.close()
