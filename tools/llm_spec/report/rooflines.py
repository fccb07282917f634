"""Decode and prefill of one model under one roof, where a run recorded each apart."""

from collections.abc import Sequence
from typing import Any

Roofline = dict[str, Any]


def under_one_roof(found: Sequence[Roofline]) -> Roofline:
    """One `roofline` exhibit with the points of all; each keeps the ceiling measured beside it.

    The roof is the highest that any of them measured: bandwidth in bytes and arithmetic in
    operations per second.
    """
    points = [point for it in found for point in it["points"]]
    return {
        **found[0],
        "title": " and ".join(str(point["name"]) for point in points),
        "bandwidth": max(it["bandwidth"] for it in found),
        "flops": max(it["flops"] for it in found),
        "points": points,
    }
