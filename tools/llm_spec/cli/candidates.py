"""`llm-spec choose --measure`: assistants on this disk, each measured once, in a file of its own.

A file's name tells what it depends on: the model's files, the suite's, the jobs and the packages.
So a run that was interrupted goes on where it was, and what changes is measured again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llm_spec.ledger.results import version
from llm_spec.processes.leash import Leash
from llm_spec.quality.on_disk import OnDisk, fingerprint
from llm_spec.text.untrusted import visible

CLAIM, SPECS = "7.26", Path("specs/test_7_assistant.py")
SUITE = ("specs", "fixtures", "tools")
TICK = 0.5
"""Seconds between two looks at how far a model is."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}


class Stopped(Exception):
    """Ctrl-C; what is measured is kept."""


def measure(
    models: Sequence[OnDisk], folder: Path, jobs: Path | None, tell: Callable[[str], None]
) -> list[Path]:
    """The results files of these models, measured unless they are there already.

    One that cannot be measured is told of, and left out. Raises Stopped, and BadJobs for jobs that
    cannot be asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for at, model in enumerate(models, 1):
        file = folder / f"{_short(model.name)}-{_depends_on(model, jobs)}.json"
        who = f"{model.name} ({at} of {len(models)})"
        if file.exists():
            tell(f"{who}: measured before, {file}")
        elif why := _measured(model, file, jobs, tell, who):
            tell(f"{who}: left out: {why.removeprefix(f'{model.name}: ')}")
            continue
        files.append(file)
    return files


def _measured(
    model: OnDisk, file: Path, jobs: Path | None, tell: Callable[[str], None], who: str
) -> str | None:
    """Measure one model into `file`; why that did not work, or None."""
    part, log, share = (file.with_suffix(end) for end in (".part.json", ".log", ".share"))
    part.unlink(missing_ok=True)
    asked = ["--jobs", str(jobs)] if jobs else []
    asked += ["--progress", str(share), "--report", str(part)]
    arguments = [str(SPECS), "--model", model.name, "--claim", CLAIM, *asked]
    tell(f"{who}: being measured; its output goes to {log}")
    start = time.monotonic()
    try:
        with shown(who, share, tell) as look:
            start_pytest(arguments, log, look)
    except KeyboardInterrupt:
        raise Stopped from None
    finally:
        share.unlink(missing_ok=True)
    if not _is_whole(part):
        return _last_words(log)
    part.replace(file)
    tell(f"{who}: measured in {time.monotonic() - start:.0f} s")
    return None


def start_pytest(arguments: Sequence[str], log: Path, look: Callable[[], None]) -> int:
    """Run the suite on these arguments, without the network, and return its exit code. `look` is
    called while it runs. It ends with this process, whatever ends that."""
    command = [sys.executable, "-m", "pytest", *arguments]
    with (
        ended_as_by_ctrl_c(),
        log.open("w", encoding="utf-8") as output,
        # A run that is killed leaves its temporary files behind.
        tempfile.TemporaryDirectory(prefix="llm-spec-") as temporary,
    ):
        environment = os.environ | OFFLINE | {"TMPDIR": temporary}
        leash = Leash()
        run = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            leash.hold(run.pid)
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return run.wait(TICK)
                look()
        finally:
            run.kill()  # no effect on one that has ended
            run.wait()
            leash.close()


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, and SIGHUP unless `nohup` asks to ignore it, raise KeyboardInterrupt inside, so that
    the run that is waited for ends, too."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    heard = [each for each in ENDING if signal.getsignal(each) is signal.SIG_DFL]
    for each in heard:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in heard:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def shown(who: str, share: Path, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """A function that shows what share of a model's answers is written, as its run says in the
    file `share`, and how long the rest takes: a bar on a terminal, elsewhere a line per quarter."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console, start, quarters = Console(stderr=True), time.monotonic(), 0
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Remaining()
    shown_here = console.is_terminal  # elsewhere it would end in an empty line
    with Progress(*columns, console=console, transient=True, disable=not shown_here) as bar:
        task = bar.add_task(escape(visible(who)), total=1.0)

        def look() -> None:
            nonlocal quarters
            done = _number(share)
            bar.update(task, completed=done)
            if not shown_here and quarters < int(4 * done) < 4:
                quarters = int(4 * done)
                left = (time.monotonic() - start) * (1 - done) / done
                tell(f"{who}: {done:.0%} of the answers written, about {left:.0f} s left")

        yield look


def _number(share: Path) -> float:
    try:
        return float(share.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


def _is_whole(part: Path) -> bool:
    """Whether a run was not interrupted and saw a candidate."""
    try:
        document = json.loads(part.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    kinds = [exhibit["kind"] for claim in document["claims"] for exhibit in claim["exhibits"]]
    return "candidates" in kinds and not document["environment"]["partial"]


def _last_words(log: Path) -> str:
    """Why a run saw no candidate: the sentence of a wrong option, or why the claim was not run."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reasons = [line.strip() for line in lines if "this model has" in line or "it is not" in line]
    return (errors or reasons or [f"its run gave no answers; see {log}"])[-1]


def _depends_on(model: OnDisk, jobs: Path | None) -> str:
    packages = [f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "transformers")]
    suite = [Path(name) for name in SUITE]
    files = [model.path, *suite, *([jobs] if jobs else [])]
    return fingerprint(files, model.name, *packages, *(_texts_of(jobs) if jobs else ()))


def _texts_of(jobs: Path) -> list[str]:
    """The texts that jobs are about: they may stand in files of their own."""
    from llm_spec.quality.own_jobs import read_jobs

    return [job.source for job in read_jobs(jobs).jobs]


def _short(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in name).strip("-.")[-60:]
