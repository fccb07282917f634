"""What many ranks cost and save per token against fewer, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from llm_spec.numerics.timing import Sample
from llm_spec.numerics.units import show_bytes

SLOWED = 0.75  # of the first generation's rate: less is no noise


@dataclass(frozen=True)
class Decoding:
    """One conversation on so many ranks, as the slowest of them sees it.

    `decode` and `prefill` are in tokens per second, `bandwidth` in bytes per second per rank,
    `reduction` is the time of one of `reductions` per token, in seconds; `read` and `weights` are
    bytes per rank, the most of any.
    """

    ranks: int
    decode: Sample
    prefill: Sample
    read: int
    weights: int
    bandwidth: float
    reductions: int = 0
    reduction: float = 0.0

    @property
    def ceiling(self) -> float:
        """Tokens per second that the memories of all ranks allow together, at most."""
        return self.bandwidth / self.read

    @property
    def share(self) -> float:
        """How much of that ceiling decoding reaches."""
        return self.decode.median / self.ceiling

    @property
    def reducing(self) -> float:
        """Seconds of reductions per token."""
        return self.reductions * self.reduction


def seen_at(answers: Sequence[Mapping[str, Any]], index: int) -> Decoding:
    """What all ranks answered (`on_ranks.answer`) about the context of this index."""
    rows = [each["rows"][index] for each in answers]
    slowest = min(rows, key=lambda row: median(row["decode"]))
    reductions = [median(each["reduction_seconds"]) for each in answers if each["reductions"]]
    return Decoding(
        ranks=len(answers),
        decode=Sample(tuple(slowest["decode"]), "tok/s"),
        prefill=Sample(tuple(slowest["prefill"]), "tok/s"),
        read=max(row["bytes_per_token"] for row in rows),
        weights=max(each["weights"] for each in answers),
        bandwidth=min(median(each["bandwidth"]) for each in answers),
        reductions=max(each["reductions"] for each in answers),
        reduction=max(reductions, default=0.0),
    )


def compared(one: Decoding, many: Decoding) -> str:
    """Whether `many` ranks decode faster than `one`, and why, in one sentence."""
    who = "one" if one.ranks == 1 else str(one.ranks)
    rates = f"{many.decode.median:.1f} against {one.decode.median:.1f} tok/s"
    saved, took = saved_per_token(one, many), 1 / many.decode.median - 1 / one.decode.median
    less = show_bytes(one.read - many.read)
    saves = f"{less} that a rank reads less save {shown(saved)} at most"
    if saved <= 0:
        part = many.bandwidth / one.bandwidth
        saves = f"{less} that a rank reads less save nothing at {part:.0%} of the bandwidth"
    return (
        f"{many.ranks} ranks decode {verdict(one, many)} than {who} ({rates}): per token, "
        f"{many.reductions} reductions of {shown(many.reduction)} take {shown(many.reducing)}, "
        f"{saves}, and {shown(abs(took))} {'more' if took > 0 else 'less'} are measured."
    )


def verdict(one: Decoding, many: Decoding) -> str:
    """`faster`, `slower`, or neither where the spread of both hides it."""
    times = many.decode.median / one.decode.median
    if abs(times - 1) <= one.decode.spread + many.decode.spread:
        return "neither faster nor slower"
    return "faster" if times > 1 else "slower"


def slowed(seen: Decoding) -> str | None:
    """A sentence where decoding became slower from one generation to the next; else None."""
    first, last = seen.decode.values[0], seen.decode.values[-1]
    if last > SLOWED * first:
        return None
    generations = len(seen.decode.values)
    return f"Decoding fell from {first:.1f} to {last:.1f} tok/s in {generations} generations."


def saved_per_token(one: Decoding, many: Decoding) -> float:
    """Seconds that reading fewer bytes per rank saves, at the bandwidth that each rank has."""
    return one.read / one.bandwidth - many.read / many.bandwidth


def shown(seconds: float) -> str:
    """`81 µs` or `5.8 ms`."""
    return f"{seconds * 1e6:.3g} µs" if abs(seconds) < 1e-3 else f"{seconds * 1e3:.3g} ms"
