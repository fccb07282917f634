"""A process that can be ended when it runs too long or too wide: for what only running can tell."""

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_spec.numerics.units import show_bytes
from llm_spec.processes.leash import Leash
from llm_spec.processes.pipes import close_pipes, pipe

ROOT = Path(__file__).parents[2]
MEMORY = 4_000_000_000  # bytes of the process; an honest 8B takes 0.6 GB, for no weight is read
LOOK_AGAIN = 0.02  # s after which its memory is looked at again


class Stopped(Exception):
    """The process was ended, or ended by itself. The text says what it did: a part of a sentence.

    "did not end within 10 s", "took more than 4 GB of memory", "ended with exit code 1"
    """


class Child:
    """A module of this package, run in a process that speaks JSON: a message a line, both ways.

    What its libraries print is thrown away. It is ended with the object, or with this process,
    whatever ends that.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        leash = Leash()
        self.close = weakref.finalize(self, _end, self._process, leash)
        leash.hold(self._process.pid)
        os.set_blocking(pipe(self._process.stdout).fileno(), False)
        self._pending = b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Give the process a message. Raises `Stopped` where it has ended."""
        end = pipe(self._process.stdin)
        try:
            end.write(json.dumps(message).encode() + b"\n")
            end.flush()
        except BrokenPipeError:
            raise Stopped(_ended(self._process.wait())) from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message of the process, within `seconds`. Raises `Stopped`, and ends it."""
        start = time.monotonic()
        while True:
            # Its end is looked at first: what it said before it ended can then still be read.
            code = self._process.poll()
            self._pending += pipe(self._process.stdout).read() or b""
            line, found, rest = self._pending.partition(b"\n")
            if found:
                self._pending = rest
                message: dict[str, Any] = json.loads(line)
                return message
            if code is not None:
                raise Stopped(_ended(code))
            if time.monotonic() - start > seconds:
                self.close()
                raise Stopped(f"did not end within {seconds:.0f} s")
            if _memory(self._process) > MEMORY:
                self.close()
                raise Stopped(f"took more than {show_bytes(MEMORY)} of memory")
            # Until it says something, which at its end it always does.
            select.select([pipe(self._process.stdout)], [], [], LOOK_AGAIN)
            time.sleep(0.001)


def _ended(code: int) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"ended the process with {how}"


def _memory(process: "subprocess.Popen[bytes]") -> int:
    import psutil  # here: only the process that waits asks

    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _end(process: "subprocess.Popen[bytes]", leash: Leash) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    leash.close()
    close_pipes(process)
