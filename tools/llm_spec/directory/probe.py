"""Try a model directory in a process that can be ended when it runs too long or too wide."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llm_spec.directory.errors import BadModel, megabytes

ROOT = Path(__file__).parents[2]
MEMORY = 4_000_000_000  # bytes of the process; an honest 8B takes 0.6 GB, for no weight is read


@dataclass(frozen=True)
class Stage:
    """One thing that is tried: its name, what a failure means, and how long it may take."""

    title: str
    problem: str | None
    """The key of the problem that a failure is; None where nothing can be checked without it."""
    seconds: float


STAGES = {
    "importing": Stage("mlx-lm", None, 120),
    "model": Stage("config.json and the weights", None, 60),
    "tokenizer": Stage("tokenizer.json and its like", "tokenizer", 60),
    "vocabulary": Stage("the vocabulary of tokenizer.json", "vocabulary", 10),
    "chat template": Stage("the chat template of tokenizer_config.json", "chat template", 10),
}


def probe(
    view: Path,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, str]:
    """Declare the model, load the tokenizer and fill in the chat template of `view`.

    Returns sentences on what is wrong with the tokenizer, the vocabulary or the template. Raises
    `BadModel` where the model itself cannot be had.
    """
    problems: dict[str, str] = {}
    skip: list[str] = []
    while True:
        stage, failure = _run(view, skip, problems, on_stage)
        if failure is None:
            return problems
        problem = STAGES[stage].problem
        if problem is None:
            raise BadModel(failure)
        # What stopped the process is left out, and the rest is tried in a new one.
        problems[problem] = failure
        skip.append(stage)


def _run(
    view: Path, skip: list[str], problems: dict[str, str], on_stage: Callable[[str], None]
) -> tuple[str, str | None]:
    """The stage that stopped the process and why; no reason if it came to its end."""
    stage = "importing"
    last = time.monotonic()
    with _process(view, skip) as (process, messages):
        while True:
            for message in messages():
                if "stage" in message:
                    stage, last = message["stage"], time.monotonic()
                    on_stage(STAGES[stage].title)
                elif message.get("fatal"):
                    return stage, message["problem"]
                elif "problem" in message:
                    problems[message["about"]] = message["problem"]
                elif message.get("done"):
                    return stage, None
            if process.poll() is not None:
                return stage, _ended(process.returncode, stage)
            if time.monotonic() - last > STAGES[stage].seconds:
                return stage, _says(stage, f"did not end within {STAGES[stage].seconds:.0f} s")
            if _memory(process) > MEMORY:
                return stage, _says(stage, f"took more than {megabytes(MEMORY)} of memory")
            time.sleep(0.02)


def _says(stage: str, what: str) -> str:
    return f"Trying {STAGES[stage].title} {what}, and was stopped."


def _ended(code: int, stage: str) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return _says(stage, f"ended the process with {how}")


def _memory(process: "subprocess.Popen[bytes]") -> int:
    try:
        return psutil.Process(process.pid).memory_info().rss
    except psutil.Error:
        return 0


@contextmanager
def _process(
    view: Path, skip: list[str]
) -> "Iterator[tuple[subprocess.Popen[bytes], Callable[[], Iterator[dict[str, Any]]]]]":
    command = [sys.executable, "-m", "llm_spec.directory.trial_load", str(view), *skip]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None  # as asked for above
    os.set_blocking(process.stdout.fileno(), False)
    pending = b""

    def messages() -> Iterator[dict[str, Any]]:
        nonlocal pending
        pending += process.stdout.read() or b""  # type: ignore[union-attr]
        *lines, pending = pending.split(b"\n")
        yield from map(json.loads, lines)

    try:
        yield process, messages
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
