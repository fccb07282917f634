"""`llm-spec choose --measure`: assistants on this disk, each measured once, in a file of its own.

A file's name tells what it depends on: the model's files, the suite's, the jobs and the packages.
So a run that was interrupted goes on where it was, and what changes is measured again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_spec.ledger.results import version
from llm_spec.quality.on_disk import OnDisk, fingerprint

CLAIM, SPECS = "7.26", Path("specs/test_7_assistant.py")
SUITE = ("specs", "fixtures", "tools")
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}


class Stopped(Exception):
    """Ctrl-C; what is measured is kept."""


def measure(
    models: Sequence[OnDisk], folder: Path, jobs: Path | None, tell: Callable[[str], None]
) -> list[Path]:
    """The results files of these models, measured unless they are there already.

    One that cannot be measured is told of, and left out. Raises Stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for at, model in enumerate(models, 1):
        file = folder / f"{_short(model.name)}-{_depends_on(model, jobs)}.json"
        who = f"{model.name} ({at} of {len(models)})"
        if file.exists():
            tell(f"{who}: measured before, {file}")
        elif why := _measured(model, file, jobs, tell, who):
            tell(f"{who}: left out: {why}")
            continue
        files.append(file)
    return files


def _measured(
    model: OnDisk, file: Path, jobs: Path | None, tell: Callable[[str], None], who: str
) -> str | None:
    """Measure one model into `file`; why that did not work, or None."""
    part, log = file.with_suffix(".part.json"), file.with_suffix(".log")
    part.unlink(missing_ok=True)
    asked = ["--jobs", str(jobs)] if jobs else []
    arguments = [str(SPECS), "--model", model.name, "--claim", CLAIM, *asked, "--report", str(part)]
    tell(f"{who}: being measured; its output goes to {log}")
    start = time.monotonic()
    try:
        start_pytest(arguments, log)
    except KeyboardInterrupt:
        raise Stopped from None
    if not _is_whole(part):
        return _last_words(log)
    part.replace(file)
    tell(f"{who}: measured in {time.monotonic() - start:.0f} s")
    return None


def start_pytest(arguments: Sequence[str], log: Path) -> int:
    """Run the suite on these arguments, without the network, and return its exit code."""
    command = [sys.executable, "-m", "pytest", *arguments]
    with log.open("w", encoding="utf-8") as output:
        return subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | OFFLINE, check=False
        ).returncode


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
    return fingerprint([model.path, *suite, *([jobs] if jobs else [])], model.name, *packages)


def _short(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in name).strip("-.")[-60:]
