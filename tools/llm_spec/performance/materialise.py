"""Fill a declared model with random weights, so that its speed and memory can be measured.

Neither depends on what the weights are. The arrays are made where they will be used and in the type
in which they are stored: packed words are random bits, and so are the mantissas of floats, so
nothing larger than the array itself is ever in memory.
"""

import math

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from llm_spec.numerics.units import show_bytes
from llm_spec.performance.budget import available, budget
from llm_spec.performance.memory import Prediction, predict

# Leave room for what else runs: the figures are the allocator's, not the operating system's.
SLACK = 1.02

# Sign and mantissa bits, first bit of the exponent, its bias.
FLOATS = {
    mx.float32: (0x807FFFFF, 23, 127),
    mx.bfloat16: (0x807F, 7, 127),
    mx.float16: (0x83FF, 10, 15),
}

# Root mean square of the numbers that random bits stand for, with a scale of one.
SPREAD = {"affine": 0.29, "mxfp4": 2.9, "nvfp4": 2.9, "mxfp8": 1.2, "float": 1.53}


class DoesNotFit(MemoryError):
    """The device has not enough free memory. The text is one sentence with the figures."""


def materialise(
    model: nn.Module, prompt: int = 1, generated: int = 1, free: int | None = None
) -> Prediction:
    """Give every array of a declared `model` memory and random content.

    First predicts what a run of `prompt` and `generated` tokens needs. Raises DoesNotFit, with
    nothing allocated, when that is more than `free` bytes (default: what the device has left).
    Weights get the size that keeps activations finite through a deep model.
    """
    needed = predict(model, prompt, generated)
    free = available() if free is None else free
    if needed.peak * SLACK > free:
        _, where = budget()
        raise DoesNotFit(
            f"{show_bytes(needed.peak)} are needed ({show_bytes(needed.weights)} of weights, "
            f"{show_bytes(needed.cache)} of cache, {show_bytes(needed.working)} of intermediate "
            f"results), but {show_bytes(free)} of {where} are free."
        )
    modules = dict(model.named_modules())
    filled = []
    for seed, (name, array) in enumerate(tree_flatten(model.parameters())):
        path, _, key = name.rpartition(".")
        new = _random(modules.get(path), key, array, seed)
        mx.eval(new)
        filled.append((name, new))
    model.update(tree_unflatten(filled))
    return needed


def _random(module: nn.Module | None, key: str, array: mx.array, seed: int) -> mx.array:
    mode = getattr(module, "mode", "affine")
    if key in ("scales", "biases") and module is not None and "scales" in module:
        return _scale(module, key, array, mode)
    if array.ndim < 2:
        return array  # norms are ones and biases zeros as they were declared
    if array.dtype == mx.uint32:
        words = _bits(array, seed)
        # Half of the exponents of mxfp8 will do, and leaves out the codes for NaN.
        return words & 0xBFBFBFBF if mode == "mxfp8" else words
    if array.dtype in FLOATS:
        return _floats(array, 1 / (SPREAD["float"] * math.sqrt(array.shape[-1])), seed)
    return array


def _floats(array: mx.array, size: float, seed: int) -> mx.array:
    """Random signs and mantissas under one exponent: no wider type on the way."""
    kept, first, bias = FLOATS[array.dtype]
    exponent = max(1, round(math.log2(size)) + bias)
    return ((_bits(array, seed) & kept) | (exponent << first)).view(array.dtype)


def _bits(array: mx.array, seed: int) -> mx.array:
    """Random bits, as many as `array` has, in its shape and in an unsigned type of its size.

    Splitting a key is the only way to MLX's generator that does not lead through floats.
    """
    pairs = -(-array.nbytes // 8)
    words = mx.random.split(mx.random.key(seed), pairs).flatten()
    unsigned = {4: mx.uint32, 2: mx.uint16}[array.dtype.size]
    return words.view(unsigned)[: array.size].reshape(array.shape)


def _scale(module: nn.Module, key: str, array: mx.array, mode: str) -> mx.array:
    """One scale for all groups, such that rows of weights have about unit length."""
    columns = module["weight"].shape[-1] * 32 // module.bits
    size = 1 / (SPREAD[mode] * math.sqrt(columns))
    if mode == "affine":
        step = size / (2**module.bits - 1)
        # The middle of the codes stands for zero.
        return mx.full(array.shape, step if key == "scales" else -size / 2, array.dtype)
    if mode == "nvfp4":  # an 8-bit float with 3 bits of mantissa, here a subnormal one
        return mx.full(array.shape, max(1, round(size * 2**9)), mx.uint8)
    return mx.full(array.shape, 127 + round(math.log2(size)), mx.uint8)
