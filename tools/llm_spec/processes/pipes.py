"""Messages between a process and the one that started it: lines of JSON, through its pipes."""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from typing import IO, Any


def channel() -> IO[str]:
    """For the process itself: where its messages go; what is printed goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def tell(out: IO[str], message: Mapping[str, Any]) -> None:
    """For the process itself: give a message."""
    print(json.dumps(message), file=out, flush=True)


def pipe(opened: IO[bytes] | None) -> IO[bytes]:
    """The end of a pipe that `subprocess.Popen` was asked for."""
    assert opened is not None
    return opened


def close_pipes(process: "subprocess.Popen[bytes]") -> None:
    """Close both ends that this process holds, also where the other never read the last message."""
    for end in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            pipe(end).close()
