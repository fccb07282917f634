"""Take a time often enough to know how far it can be trusted."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Sample:
    """Repeated measurements of one quantity. `values` keep their order, `unit` is for people."""

    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        """The middle of the values: one disturbed round does not move it."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Median distance from the median, as a share of it: 0.02 means that half of the values
        lie within 2 %."""
        middle = self.median
        return statistics.median(abs(v - middle) for v in self.values) / abs(middle)

    @property
    def error(self) -> float:
        """Relative standard error of the median, from the median deviation.

        For normal noise the deviation is 0.6745 standard deviations, and the median varies 1.2533
        times as much as the mean. Fewer than five values say too little about their noise: their
        error counts as infinite.
        """
        count = len(self.values)
        return math.inf if count < 5 else 1.2533 * self.spread / 0.6745 / math.sqrt(count)

    @property
    def best(self) -> float:
        """The largest value: for rates, what the machine did when nothing disturbed it."""
        return max(self.values)

    def rate(self, amount: float, unit: str) -> "Sample":
        """Turn times into rates: `amount` of something per second."""
        return Sample(tuple(amount / v for v in self.values), unit)

    def __str__(self) -> str:
        return f"{self.median:.4g} {self.unit} ± {self.spread:.1%} of {len(self.values)}"


def sample(
    work: Callable[[], object], rounds: int = 7, seconds: float = 1.0, warm_up: int = 1
) -> Sample:
    """Time `work`, which must wait for its own results (mx.eval), in seconds.

    Runs `warm_up` calls untimed, then up to `rounds` calls, but at least three, stopping when
    `seconds` have passed.
    """
    for _ in range(warm_up):
        work()
    mx.synchronize()
    values: list[float] = []
    began = time.perf_counter()
    while len(values) < rounds:
        start = time.perf_counter()
        work()
        values.append(time.perf_counter() - start)
        if len(values) >= 3 and values[-1] + time.perf_counter() - began > seconds:
            break
    return Sample(tuple(values))


@dataclass(frozen=True)
class Reference:
    """Work whose speed tells what the machine can do just now: `amount` of `unit` in each call."""

    call: Callable[[], None]
    amount: float
    unit: str

    def rate(self) -> float:
        """The rate of one call: take it beside each round of what it is compared with."""
        return self.sample(rounds=1, warm_up=0).median

    def sample(self, rounds: int = 15, seconds: float = 1.5, warm_up: int = 1) -> Sample:
        """Rates of several calls."""
        return sample(self.call, rounds, seconds, warm_up).rate(self.amount, self.unit)
