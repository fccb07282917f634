"""What MLX computes on, as people call it."""

import mlx.core as mx

KINDS = "cpu", "metal", "cuda"


def device_name() -> str:
    """What MLX calls the default device, e.g. "Apple M3 Pro"."""
    info = mx.device_info(mx.default_device())
    return str(info.get("device_name") or info.get("architecture") or mx.default_device())


def kind() -> str:
    """Which of `KINDS` the default device is."""
    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def kind_and_name() -> str:
    """Whether the default device is a CPU or a GPU, and which: "gpu (Apple M3 Pro)"."""
    kind = "gpu" if mx.default_device() == mx.gpu else "cpu"
    return f"{kind} ({device_name()})"
