"""How much memory the default device has for a model. Imports no mlx-lm, which takes seconds."""

from collections.abc import Mapping

import mlx.core as mx
import psutil

from llm_spec.numerics import device

MACHINE = "the machine's memory"


def budget() -> tuple[int, str]:
    """Bytes that the default device may hold, and where the figure comes from.

    On Metal the working set that macOS recommends, which is less than the RAM; on CUDA the card's
    memory; on a CPU the machine's.
    """
    info: Mapping[str, str | int] = device.info()
    for key, about in (
        ("max_recommended_working_set_size", "what macOS lets the GPU keep resident"),
        ("total_memory", "the GPU's memory"),
        ("memory_size", "the device's memory"),
    ):
        if isinstance(value := info.get(key), int) and value > 0:
            return value, about
    return psutil.virtual_memory().total, MACHINE


def available() -> int:
    """Bytes of the budget that nothing has taken yet."""
    total, _ = budget()
    free = device.info().get("free_memory")
    if isinstance(free, int):
        return free
    return min(total - mx.get_active_memory(), psutil.virtual_memory().available)
