"""The same computation on two of MLX's devices, and the references that neither of them is."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

Work = Callable[[], Sequence[mx.array]]
"""What is computed on either device, from arrays that are made anew."""


def gpu() -> mx.Device | None:
    """The GPU that MLX computes on; None where this installation has a CPU alone."""
    available = mx.metal.is_available() or mx.cuda.is_available()
    return mx.Device(mx.gpu) if available else None


def on(device: mx.Device | mx.DeviceType, work: Work) -> list[np.ndarray]:
    """What `work` computes on `device`; half types are widened to float32."""
    with mx.stream(device):
        arrays = list(work())
        mx.eval(arrays)
    wide = [x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x for x in arrays]
    return [np.array(x) for x in wide]


def rotated(vectors: np.ndarray, position: int, base: float) -> np.ndarray:
    """Rotary embedding of `vectors` (rows, width) at one position, in float64: number i of the
    first half turns with number i of the second, by position / base^(2i / width)."""
    first, second = np.split(vectors.astype(np.float64), 2, axis=-1)
    half = first.shape[-1]
    angle = position / base ** (np.arange(half) / half)  # (half,)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
