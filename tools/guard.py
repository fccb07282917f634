"""`python -m tools guard`: has this machine become slower than it was, beyond its noise?

    pytest specs/benchmarks --benchmark-only --benchmark-json=now.json
    python -m tools guard now.json specs/benchmarks/baselines.json

Seconds differ between machines and hours; shares of what the same machine could do in the same
minute do not, so only they are compared, and only with a baseline of the same class of device.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.timing import Sample

# A rate that falls by a sixth (20 % more time) is to be told from one that stays. The bound lies
# halfway between the two, and both must be three standard errors away from it.
SLOWER = 1 / 1.2
BOUND = math.sqrt(SLOWER)
SIGMAS = 3.0

Finding = Literal["steady", "slower", "inconclusive"]


@dataclass(frozen=True)
class Judgement:
    """What became of one share: `ratio` is now over then, `noise` its relative standard error."""

    finding: Finding
    ratio: float
    noise: float

    def __str__(self) -> str:
        return f"{self.finding}: {self.ratio:.3f} of the baseline, give or take {self.noise:.3f}"


def judge(baseline: Sequence[float], now: Sequence[float]) -> Judgement:
    """Compare shares measured now with those of the baseline, each taken several times.

    "inconclusive" means that the noise is too large to tell a slow-down of 20 % from none.
    """
    before, after = Sample(tuple(baseline)), Sample(tuple(now))
    ratio = after.median / before.median
    noise = ratio * math.hypot(before.error, after.error)
    if SIGMAS * noise > 1 - BOUND:
        return Judgement("inconclusive", ratio, noise)
    return Judgement("slower" if ratio < BOUND else "steady", ratio, noise)


class BadFile(ValueError):
    """This is no file of benchmarks or baselines. The text is one sentence."""


def shares(path: Path) -> tuple[str, dict[str, list[float]]]:
    """The device class and the shares of every benchmark in pytest-benchmark's JSON.

    Benchmarks without `shares` in their `extra_info` are not guarded. Raises BadFile.
    """
    found, classes = {}, set()
    try:
        for benchmark in _read(path)["benchmarks"]:
            info = benchmark["extra_info"]
            if "shares" in info:
                found[str(benchmark["name"])] = [float(share) for share in info["shares"]]
                classes.add(str(info["device_class"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(
            f"{path.name} does not hold pytest-benchmark's results: {error!r}."
        ) from error
    if len(classes) != 1 or not all(found.values()):
        raise BadFile(f"{path.name} holds no shares of one device class, but of {len(classes)}.")
    return classes.pop(), found


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `guard` to the command line."""
    parser = subparsers.add_parser(
        "guard",
        help="compare benchmarks with a baseline and fail on a slow-down",
        description="Compares the shares of pytest-benchmark's JSON with the baseline of the same "
        "class of device: exit code 1 where one is slower by more than the noise explains.",
    )
    parser.add_argument("benchmarks", type=Path, help="JSON of pytest --benchmark-json")
    parser.add_argument("baselines", type=Path, help="JSON with a baseline per device class")
    parser.add_argument("--update", action="store_true", help="make these benchmarks the baseline")


def run(args: argparse.Namespace) -> int:
    """Print a line a benchmark; 1 where one is slower, 2 where nothing can be compared."""
    try:
        device, now = shares(args.benchmarks)
        baselines = _read(args.baselines) if args.baselines.exists() else {}
        if args.update:
            text = json.dumps(baselines | {device: now}, indent=1, sort_keys=True)
            args.baselines.write_text(text + "\n", encoding="utf-8")
            return 0
        if device not in baselines:
            known = ", ".join(baselines) or "none"
            raise BadFile(
                f"There is no baseline for {device!r}; --update makes one (known: {known})."
            )
        before = {name: [float(v) for v in values] for name, values in baselines[device].items()}
    except (BadFile, TypeError, ValueError, AttributeError) as error:
        print(error, file=sys.stderr)
        return 2
    judged = {name: judge(before[name], now[name]) for name in now if name in before}
    for name, judgement in judged.items():
        print(f"{name}: {judgement}")
    for name in sorted(now.keys() ^ before.keys()):
        print(f"{name}: only in {'the baseline' if name in before else 'these benchmarks'}")
    return int(any(judgement.finding == "slower" for judgement in judged.values()))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"{path.name} cannot be read: {error}") from error
