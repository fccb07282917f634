"""Has this machine become slower than it was, beyond its noise?

Seconds differ between machines and hours; shares of what the same machine could do in the same
minute do not, so only they are compared, and only with a baseline of the same class of device.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm_spec.numerics.timing import Sample

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
    """Compare shares (0 to 1 of what the machine could do) measured now with those of the
    baseline, each taken several times.

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
        for benchmark in read_json(path)["benchmarks"]:
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


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises BadFile, which names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"{path.name} cannot be read: {error}") from error
