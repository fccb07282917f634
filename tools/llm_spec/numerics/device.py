"""What MLX computes on, as people call it."""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import suppress

import mlx.core as mx

KINDS = "cpu", "metal", "cuda"


def info() -> Mapping[str, str | int]:
    """What MLX knows of the default device; of a CPU nothing before MLX 0.30.4."""
    if hasattr(mx, "device_info"):
        return dict(mx.device_info(mx.default_device()))
    return dict(mx.metal.device_info()) if kind() == "metal" else {}


def device_name() -> str:
    """What MLX calls the default device, e.g. "Apple M3 Pro"."""
    about = info()
    return str(about.get("device_name") or about.get("architecture") or mx.default_device())


def kind() -> str:
    """Which of `KINDS` the default device is."""
    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def kind_and_name() -> str:
    """Whether the default device is a CPU or a GPU, and which: "gpu (Apple M3 Pro)"."""
    kind = "gpu" if mx.default_device() == mx.gpu else "cpu"
    return f"{kind} ({device_name()})"


def give_back_memory() -> None:
    """Give the system what arrays no longer need: MLX keeps some of it, and glibc what lies between
    arrays that live. After a few laws of a model of 538 MB, that is 150 MB."""
    mx.clear_cache()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
