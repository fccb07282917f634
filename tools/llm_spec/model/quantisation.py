"""What quantised storage is, how far it rounds, and what that costs a model.

The affine rule, as MLX applies it to a group of weights with values from a to b at n bits:
the step is (b - a) / (2^n - 1), and the grid starts at whichever of a and b is larger in magnitude.
Then the step is stretched or shrunk until 0 lies on the grid, so that zeros stay zeros. Where it
shrinks, the far end of the group falls outside the grid and is clipped. So the error is at most
half a step for a weight inside the grid, but up to one whole step for a weight beyond it.
(Source: `affine_quantize` in MLX's mlx/ops.cpp and its CPU and Metal kernels; `Rounding` derives
the bounds.)
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

ROWS_AT_ONCE = 4096  # the microscaling modes of MLX's CPU need 16 times the memory of their input


@dataclass(frozen=True)
class Scheme:
    """One way to store weights: `bits` each, in groups that share a scale (and a bias if affine).

    `bits` 16 or 32 in mode "float" is no quantisation but a plain cast, for comparison.
    """

    name: str
    bits: int
    group_size: int
    mode: str = "affine"

    @property
    def bits_per_weight(self) -> float:
        """Return the bits stored for a weight, its share of the scale and the bias included.

        Affine scales and biases are 16-bit, as in a model converted from bfloat16; the
        microscaling modes (mxfp4, mxfp8, nvfp4) have an 8-bit scale and no bias.
        """
        if self.mode == "float":
            return self.bits
        return self.bits + (32 if self.mode == "affine" else 8) / self.group_size


FLOAT32 = Scheme("float32", 32, 1, "float")
BFLOAT16 = Scheme("bfloat16", 16, 1, "float")
AFFINE = tuple(Scheme(f"{bits} bits", bits, 64) for bits in (8, 6, 5, 4, 3, 2))
MICROSCALING = (
    Scheme("mxfp8", 8, 32, "mxfp8"),
    Scheme("nvfp4", 4, 16, "nvfp4"),
    Scheme("mxfp4", 4, 32, "mxfp4"),
)
LADDER = (FLOAT32, BFLOAT16, *AFFINE, *MICROSCALING)


@dataclass(frozen=True)
class Rounding:
    """How far affine storage moved the weights of one matrix, in steps (|scale|) of their group.

    With n = 2^bits - 1 intervals and e the end of larger magnitude, the unadjusted step is
    s = (b - a) / n and the stored one is t = |e| / round(|e| / s). The far end lies n·s from e,
    the grid reaches n·t, and |e| / s ≥ n / 2 because e is the larger end. So the far end is beyond
    the grid by n·(s/t - 1) ≤ n·(1/2) / (n/2) = 1 step at most.
    """

    levels: int  # most different values in any one group
    inside: float  # largest error of a weight that its group's grid reaches
    beyond: float  # largest error of a weight that the grid does not reach; 0 if there is none
    clipped: float  # share of the weights that the grid does not reach
    zero: float  # largest distance from 0 to the grid, over groups with both signs
    slack: float  # what the rounding of float32 itself may add to each of these
    spread: tuple[int, ...]  # weights by their error, in twentieths of a step from 0 to 1


def unpack(words: mx.array, bits: int) -> np.ndarray:
    """Return the codes held in packed uint32 words, (rows, columns) of uint8.

    (rows, words) becomes (rows, words · 32 / bits): codes follow one another from the lowest bit
    on, across word borders where `bits` does not divide 32.
    """
    rows = words.shape[0]
    stream = np.unpackbits(np.array(words).view(np.uint8), axis=-1, bitorder="little")
    digits = stream.reshape(rows, -1, bits)
    return (digits << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)


def affine_rounding(weight: mx.array, scheme: Scheme) -> Rounding:
    """Measure `Rounding` for a float32 matrix (rows, columns), with scales kept in float32.

    Codes, grid and error are computed here in float64 from the stored words; `mx.dequantize` has
    no part in it.
    """
    words, scales, biases = mx.quantize(
        weight, group_size=scheme.group_size, bits=scheme.bits, mode="affine"
    )
    groups = (-1, scheme.group_size)
    codes = unpack(words, scheme.bits).reshape(groups)  # (groups, group_size)
    true = np.array(weight, dtype=np.float64).reshape(groups)
    scale = np.array(scales, dtype=np.float64).reshape(-1, 1)
    start = np.array(biases, dtype=np.float64).reshape(-1, 1)
    end = start + scale * (2**scheme.bits - 1)
    error = np.abs(codes * scale + start - true) / np.abs(scale)
    low, high = np.minimum(start, end), np.maximum(start, end)
    outside = (true < low) | (true > high)
    straddles = ((true.min(-1) < 0) & (true.max(-1) > 0))[:, None]
    zero_at = -start / scale
    return Rounding(
        levels=1 + int((np.diff(np.sort(codes, axis=-1), axis=-1) > 0).sum(-1).max()),
        inside=float(error[~outside].max()),
        beyond=float(error[outside].max(initial=0)),
        clipped=float(outside.mean()),
        zero=float(np.abs(zero_at - np.rint(zero_at))[straddles].max(initial=0)),
        slack=float(4 * np.finfo(np.float32).eps * np.abs(zero_at).max(initial=2**scheme.bits)),
        spread=tuple(np.histogram(error, 20, (0, 1))[0].tolist()),
    )


def round_trip(weight: mx.array, scheme: Scheme) -> mx.array:
    """Return float32 weights (rows, columns) as they come back from storage under a scheme.

    The weights are cast to bfloat16 before an affine scheme, so that scales and biases are the
    16-bit ones that `mlx_lm.convert` stores. The codes are multiplied out in float32.
    """
    if scheme.mode == "float":
        dtype = {16: mx.bfloat16, 32: mx.float32}[scheme.bits]
        return weight.astype(dtype).astype(mx.float32)
    pieces = [
        _restore(weight[start : start + ROWS_AT_ONCE], scheme)
        for start in range(0, weight.shape[0], ROWS_AT_ONCE)
    ]
    return mx.concatenate(pieces)


def _restore(rows: mx.array, scheme: Scheme) -> mx.array:
    how = scheme.group_size, scheme.bits, scheme.mode
    if scheme.mode == "affine":
        words, *stored = mx.quantize(rows.astype(mx.bfloat16), *how)
        # widened before they are multiplied out: a product in bfloat16 would round once more
        scales, biases = (each.astype(mx.float32) for each in stored)
        restored = mx.dequantize(words, scales, biases, *how)
    else:
        words, scales, *_ = mx.quantize(rows, *how)
        restored = mx.dequantize(words, scales, None, *how, dtype=mx.float32)
    mx.eval(restored)
    return restored
