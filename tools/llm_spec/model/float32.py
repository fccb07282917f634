"""A float32 copy of a model, to judge its code apart from how its weights are stored."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn
import psutil
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm import utils as loading

from llm_spec.model import release
from llm_spec.model.accounting import total_parameters
from llm_spec.numerics import device

SHARE = 0.5
"""Of the memory that is free, how much the copy may take: caches and logits need the rest."""


def is_float32(model: nn.Module) -> bool:
    """Whether every floating-point weight is in float32 and none is packed."""
    floating = (
        array.dtype
        for _, array in tree_flatten(model.parameters())
        if mx.issubdtype(array.dtype, mx.floating)
    )
    packed = any("scales" in module for module in model.modules())
    return not packed and all(dtype == mx.float32 for dtype in floating)


def float32_fits(model: nn.Module, free: int | None = None) -> bool:
    """Whether a float32 copy, 4 bytes per weight, takes at most `SHARE` of `free` bytes; of what is
    free now if None."""
    free = _free() if free is None else free
    return 4 * total_parameters(model) <= SHARE * free


def float32_copy(model: nn.Module) -> nn.Module:
    """`model` with its weights in float32, packed ones unpacked; arrays in float32 are shared.

    Scales and biases are widened before they are multiplied out, so that unpacking is exact.
    """
    return to_float32(shared_copy(model))


def to_float32(model: nn.Module) -> nn.Module:
    """`model` itself, changed as in `float32_copy`. Where mlx-lm cannot undo its packing it stays
    packed: see `is_float32`."""
    model = unpacked(model)
    evaluate(model)
    return model


def unpacked(model: nn.Module) -> nn.Module:
    """`model` itself as `to_float32` changes it, with weights that are not computed yet."""
    model = _with_heads_unpacked(loading.dequantize_model(widen(model)))
    return widen(model)  # microscaling modes give bfloat16


def shared_copy(model: nn.Module) -> nn.Module:
    """`model` with modules of its own, whose arrays are those of `model`."""
    arrays = [array for _, array in tree_flatten(model.parameters())]
    return copy.deepcopy(model, {id(array): array for array in arrays})


def evaluate(model: nn.Module) -> None:
    """Compute the weights one by one: what each is made of is let go before the next."""
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)


def _with_heads_unpacked(model: nn.Module) -> nn.Module:
    """`model` with one matrix per head of latent attention unpacked: mlx-lm leaves those packed."""
    packed = release.part("mlx_lm.models.mla", "QuantizedMultiLinear")
    unpacked = []
    for path, module in model.named_modules():
        if packed is not None and isinstance(module, packed):
            how = (module.group_size, module.bits, module.mode)
            weight = mx.dequantize(module.weight, module.scales, module.biases, *how)
            heads, outputs, inputs = weight.shape
            linear = release.part("mlx_lm.models.mla", "MultiLinear")(inputs, outputs, heads)
            linear.weight = weight
            unpacked.append((path, linear))
    model.update_modules(tree_unflatten(unpacked))
    return model


def widen(model: nn.Module) -> nn.Module:
    """`model` itself, with its floating-point arrays in float32, not computed yet."""
    model.update(tree_map(_widened, model.parameters()))
    return model


def _widened(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


def _free() -> int:
    info = device.info()
    budget = info.get("max_recommended_working_set_size") or info.get("free_memory")
    free = psutil.virtual_memory().available
    return min(free, budget - mx.get_active_memory()) if isinstance(budget, int) else free
