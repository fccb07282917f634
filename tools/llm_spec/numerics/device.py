"""What MLX computes on, as people call it."""

import mlx.core as mx


def device_name() -> str:
    """What MLX calls the default device, e.g. "Apple M3 Pro"."""
    info = mx.device_info(mx.default_device())
    return str(info.get("device_name") or info.get("architecture") or mx.default_device())


def kind_and_name() -> str:
    """Whether the default device is a CPU or a GPU, and which: "gpu (Apple M3 Pro)"."""
    kind = "gpu" if mx.default_device() == mx.gpu else "cpu"
    return f"{kind} ({device_name()})"
