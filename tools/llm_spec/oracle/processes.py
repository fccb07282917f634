"""A comparison in a process of its own, forked after one import of both libraries."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from llm_spec.oracle.pair import Mend, Outcome, Pair

SECONDS = 300.0  # a tiny pair takes one to five on a slow core
LONG = 3600.0  # a directory: SmolLM2 takes twenty
PRELOADED = ["llm_spec.oracle.imports"]
_context = get_context("forkserver")


def compare_apart(pair: Pair, mend: Mend | None = None, **asked: Any) -> Outcome:
    """`comparison.compare` in a forked process, which may crash or hang.

    The first call imports both libraries, for seconds; later ones fork from there. A mend must be
    a function of a module, or a partial of one, for it is found by its name.
    """
    return run_apart(_compare, pair, mend, asked)


def compare_directory_apart(
    path: Path, texts: Mapping[str, Sequence[int]], mend: Mend | None = None
) -> Outcome:
    """`directory.compare_directory` in a forked process."""
    return run_apart(_compare_directory, path, texts, mend, limit=LONG)


def run_apart(function: Callable[..., Outcome], *arguments: Any, limit: float = SECONDS) -> Outcome:
    """The outcome that a function of a module gives in a process of its own; "crashed" where the
    process ends without one, or takes longer than the limit in seconds."""
    started = time.monotonic()
    try:
        outcome: Outcome = call_apart(_measured, function, *arguments, limit=limit)
    except Crashed as error:
        outcome = Outcome("crashed", str(error))
    return replace(outcome, seconds=time.monotonic() - started)


class Crashed(Exception):
    """A process that ended, or was ended, without an answer: how, in one clause."""


def call_apart(function: Callable[..., Any], *arguments: Any, limit: float = SECONDS) -> Any:
    """What a function of a module returns in a process of its own. Raises `Crashed` where the
    process ends without that, or takes longer than the limit in seconds."""
    _context.set_forkserver_preload(PRELOADED)
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_run, args=(sender, function, *arguments))
    started = time.monotonic()
    process.start()
    sender.close()
    answer: tuple[Any, ...] = ()
    if connection.wait([receiver], timeout=limit):
        with contextlib.suppress(EOFError):
            answer = (receiver.recv(),)
    else:
        process.kill()
    process.join()
    if not answer:
        raise Crashed(_how(process.exitcode, time.monotonic() - started, limit))
    return answer[0]


def _how(code: int | None, seconds: float, limit: float) -> str:
    if seconds >= limit:
        return f"the process did not end within {limit:.0f} s"
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"the process ended with {how} and told nothing"


def _run(sender: connection.Connection, function: Callable[..., Any], *given: Any) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)  # progress bars and warnings of the libraries
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sender.send(function(*given))


def _measured(function: Callable[..., Outcome], *given: Any) -> Outcome:
    outcome = function(*given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024  # kilobytes on Linux
    return replace(outcome, peak_memory=peak)


def _compare(pair: Pair, mend: Mend | None, asked: dict[str, Any]) -> Outcome:
    from llm_spec.oracle.comparison import compare

    return compare(pair, mend, **asked)


def _compare_directory(
    path: Path, texts: Mapping[str, Sequence[int]], mend: Mend | None
) -> Outcome:
    from llm_spec.oracle.directory import compare_directory

    return compare_directory(path, texts, mend)
