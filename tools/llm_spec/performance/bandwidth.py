"""What the default device can do: bytes per second from memory, multiplications per second.

Decoding one token at a time reads every weight once and does little with it, so memory bandwidth
bounds its speed; prefill reuses each weight for many tokens, so matrix throughput bounds it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from llm_spec.numerics.device import device_name
from llm_spec.numerics.timing import Reference, Sample, sample

# Twice the largest last-level cache in common use on any of the supported platforms.
STREAM_BYTES = 512 << 20
MATRIX_BYTES = STREAM_BYTES // 4
LEAST_SECONDS = 0.02


@dataclass(frozen=True)
class Device:
    """What was measured: `bandwidth` in bytes/s, `matmul` in floating point operations/s."""

    name: str
    bandwidth: Sample
    matmul: Sample
    dtype: str


def measure_device(seconds: float = 3.0) -> Device:
    """Measure both, half of `seconds` each. Takes `STREAM_BYTES` (512 MiB) of memory."""
    dtype = compute_dtype()
    return Device(
        name=device_name(),
        bandwidth=memory_bandwidth(seconds=seconds / 2),
        matmul=matmul_rate(dtype, seconds=seconds / 2),
        dtype=str(dtype).removeprefix("mlx.core."),
    )


def compute_dtype() -> mx.Dtype:
    """The type models are computed in: half precision on a GPU, float32 on a CPU."""
    return mx.float16 if mx.default_device().type == mx.gpu else mx.float32


def memory_bandwidth(seconds: float = 1.5) -> Sample:
    """Bytes per second that the default device reads and writes, together: one figure for each
    round of about `seconds` in all."""
    return streaming().sample(seconds=seconds)


def matmul_rate(dtype: mx.Dtype, seconds: float = 1.5) -> Sample:
    """Floating point operations per second of a square matrix product in `dtype`, as above."""
    return multiplying(dtype).sample(seconds=seconds)


def streaming(nbytes: int = STREAM_BYTES) -> Reference:
    """Adding one to an array of `nbytes`, larger than the caches: each byte is read once and
    written once. Its rate is in bytes per second.

    MLX computes it in the array's own memory, because nothing else holds the array, so no page is
    allocated. Short passes are chained into one evaluation until a call lasts long enough for its
    launch not to count.
    """
    array = mx.zeros((nbytes // 4,), dtype=mx.float32)
    mx.eval(array)
    passes = 1

    def stream() -> None:
        nonlocal array
        for _ in range(passes):
            array = array + 1
        mx.eval(array)

    while sample(stream, rounds=1).median < LEAST_SECONDS and passes < 256:
        passes *= 2
    return Reference(stream, 2 * nbytes * passes, "B/s")


def multiplying(dtype: mx.Dtype) -> Reference:
    """A square matrix product in `dtype`, with matrices that grow until it lasts long enough. Its
    rate is in floating point operations per second."""
    side = 512
    product = _product(side, dtype)
    while sample(product, rounds=1).median < LEAST_SECONDS and side < 8192:
        side *= 2
        product = _product(side, dtype)
    return Reference(product, 2 * side**3, "FLOP/s")


def _product(side: int, dtype: mx.Dtype) -> Callable[[], None]:
    left = mx.random.uniform(shape=(side, side)).astype(dtype)
    right = mx.random.uniform(shape=(side, side)).astype(dtype)
    mx.eval(left, right)
    return lambda: mx.eval(left @ right)


def meeting_vectors(
    columns: int, rows: int, dtype: mx.Dtype, bits: int | None = None, count: int = 1
) -> Reference:
    """A (rows, columns) matrix times `count` vectors, as in decoding: bytes of matrix per second.

    `bits` packs the matrix (affine, groups of 64). Copies of it, larger than the caches together,
    take turns.
    """
    matrix = mx.random.uniform(shape=(rows, columns)).astype(dtype)
    vectors = mx.ones((count, columns), dtype)
    arrays = [matrix] if bits is None else list(mx.quantize(matrix, bits=bits))
    nbytes = sum(array.nbytes for array in arrays)
    copies = [[array + 0 for array in arrays] for _ in range(max(1, MATRIX_BYTES // nbytes))]
    mx.eval(vectors, copies)

    def product(weight: mx.array, *packing: mx.array) -> mx.array:
        if bits is None:
            return vectors @ weight.T
        scales, biases = packing
        return mx.quantized_matmul(vectors, weight, scales, biases, bits=bits)

    return Reference(
        lambda: mx.eval([product(*copy) for copy in copies]), nbytes * len(copies), "B/s"
    )
