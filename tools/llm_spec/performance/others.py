"""What other programs take of the processor while something is timed here.

A figure measured beside them is theirs as much as this machine's: a bandwidth probe that shares the
memory with a build read a twentieth of what the machine can do, and every share of a ceiling that
is made of it is wrong by as much.
"""

import time
from dataclasses import dataclass, field

import psutil

MANY = 0.1
"""The share of all cores from which a figure is not to be trusted: chosen, not measured."""
IDLE = ("idle", "iowait", "guest", "guest_nice")  # Linux counts guests under user, too


@dataclass
class OtherPrograms:
    """Counts processor time from when it is made."""

    _busy: float = field(default_factory=lambda: _busy_seconds(), repr=False)
    _own: float = field(default_factory=time.process_time, repr=False)
    _start: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def share(self) -> float:
        """The share of all cores, 0 to 1, that other programs have used so far."""
        own = time.process_time() - self._own
        elapsed = time.perf_counter() - self._start
        others = _busy_seconds() - self._busy - own
        return min(1.0, max(0.0, others / (elapsed * (psutil.cpu_count() or 1))))

    @property
    def warning(self) -> str | None:
        """A sentence where they used so much that no figure is to be trusted; None else."""
        return said_of(self.share)


def said_of(share: float) -> str | None:
    """What to tell of a `share` of all cores that other programs use; None where it is small."""
    if share < MANY:
        return None
    return (
        f"This machine is busy: other programs use {share:.0%} of its processor, so speeds are too "
        "low and shares of a ceiling are not to be trusted. Close them and run again."
    )


def _busy_seconds() -> float:
    """Processor seconds of all programs since the machine started."""
    times = psutil.cpu_times()._asdict()
    return sum(seconds for kind, seconds in times.items() if kind not in IDLE)
