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
    document = read_json(path)
    try:
        for benchmark in document["benchmarks"]:
            info = benchmark["extra_info"]
            if "shares" in info:
                found[str(benchmark["name"])] = _positive(info["shares"])
                classes.add(str(info["device_class"]))
    except (KeyError, TypeError, ValueError):
        raise BadFile(
            f"{path} holds no benchmarks as pytest --benchmark-json writes them."
        ) from None
    if len(classes) != 1:
        raise BadFile(f"{path} holds no shares of one device class, but of {len(classes)}.")
    return classes.pop(), found


def baselines(path: Path) -> dict[str, dict[str, list[float]]]:
    """The shares of every benchmark, per device class; none where there is no file. Raises
    BadFile."""
    document = read_json(path) if path.exists() else {}
    try:
        return {
            device: {name: _positive(values) for name, values in each.items()}
            for device, each in document.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise BadFile(
            f"{path} holds no baselines as llm-spec guard --update writes them."
        ) from None


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises BadFile, which names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise BadFile(f"{path} is not JSON, or it is cut off.") from None


def _positive(values: Any) -> list[float]:
    """Shares that can be compared. Raises TypeError or ValueError where one is none."""
    found = [float(value) for value in values]
    if not found or not all(0 < value < math.inf for value in found):
        raise ValueError("a share is a positive number")
    return found
