"""One process of a group of ranks: its messages, its output and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_spec.processes.pipes import close_pipes, pipe
from llm_spec.text.untrusted import one_line

PEER_LOST = "connection to a peer was lost"  # as MLX's ring says where another rank has ended


@dataclass(frozen=True)
class Failure:
    """What a rank did instead of answering: a part of a sentence."""

    rank: int
    did: str
    killed: bool = False

    @property
    def order(self) -> int:
        """Causes sort before what follows from them: that another rank is gone."""
        return 0 if self.killed else 2 if PEER_LOST in self.did else 1

    def __str__(self) -> str:
        return f"Rank {self.rank} {self.did}"


class RankProcess:
    """A process in a session of its own: Ctrl-C reaches the parent alone, which ends all ranks."""

    def __init__(self, program: Sequence[str], rank: int, environment: Mapping[str, str]) -> None:
        self.rank = rank
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            list(program), env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
        )  # fmt: skip
        os.set_blocking(pipe(self._process.stdout).fileno(), False)
        self._pending = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """What it printed so far. Not to be trusted."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def last_line(self) -> str:
        """The last line that it printed, made safe to show."""
        return one_line((self.output().strip().splitlines() or ["nothing"])[-1])

    def send(self, line: str) -> None:
        """Give it a line. A process that has ended is told by `look`."""
        with contextlib.suppress(BrokenPipeError):
            pipe(self._process.stdin).write(line.encode() + b"\n")
            pipe(self._process.stdin).flush()

    def look(self) -> dict[str, Any] | Failure | None:
        """Its answer or its failure; None while it has neither."""
        # Its end is looked at first: what it said before it ended can then still be read.
        code = self.status
        self._pending += pipe(self._process.stdout).read() or b""
        line, found, rest = self._pending.partition(b"\n")
        if found:
            self._pending = rest
            answer: dict[str, Any] = json.loads(line)
            if "raised" in answer:
                return Failure(self.rank, f"raised {one_line(answer['raised'])}")
            return answer
        if code is None:
            return None
        if code == -signal.SIGKILL:
            return Failure(self.rank, "was killed by signal 9", killed=True)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Failure(self.rank, f"ended with {how}; it said: {self.last_line()}")

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.status is None:
            self._process.kill()

    def close(self) -> None:
        """Wait for its end and close its files."""
        self._process.wait()
        close_pipes(self._process)
        self._output.close()
