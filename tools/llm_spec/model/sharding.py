"""A model whose matrices many ranks share: split by mlx-lm, and held to what can be divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers import distributed
from mlx.utils import tree_unflatten

Counts = Mapping[str, int]
REFUSED_WITH: tuple[type[Exception], ...] = (ValueError, AssertionError)
"""What architectures of mlx-lm raise where the ranks do not divide a number of theirs."""


class CannotShare(ValueError):
    """The ranks cannot share the model. The text is one sentence."""


def shard(model: Any, group: mx.distributed.Group) -> None:
    """Split the matrices of `model` among the ranks of `group`, as its architecture in mlx-lm does.

    Raises CannotShare where mlx-lm offers no such split, fails, or drops a remainder: it divides
    the numbers of heads without looking whether that leaves one.
    """
    if not hasattr(model, "shard"):
        raise CannotShare(f"mlx-lm splits no {type(model).__module__.rpartition('.')[2]}")
    before = counts(model)
    try:
        model.shard(group)
    except REFUSED_WITH as error:
        ranks, why = group.size(), str(error).rstrip(".")
        raise CannotShare(f"{ranks} ranks cannot share its matrices: {why}") from error
    check_division(before, model, group.size())


def counts(model: nn.Module) -> dict[str, int]:
    """The whole numbers that its modules keep, such as numbers of heads, by their paths."""
    return {
        f"{path}.{name}".lstrip("."): number
        for path, module in model.named_modules()
        for name, number in vars(module).items()
        if type(number) is int
    }


def check_division(before: Counts, shared: nn.Module, ranks: int) -> None:
    """Raises CannotShare where a number of the whole model, as `counts` gives them, became smaller
    on each rank and leaves a remainder."""
    after = counts(shared)
    for path, whole in before.items():
        if (part := after.get(path, whole)) < whole and part * ranks != whole:
            raise CannotShare(
                f"{path} = {whole} cannot be divided among {ranks} ranks: mlx-lm takes {part} on "
                "each without a word"
            )


def unpack_shards(model: nn.Module) -> None:
    """Unpack the matrices of `model` that are split, in the type of their scales: mlx-lm's
    `dequantize_model` leaves them packed."""
    unpacked: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        for packed, plain in UNPACKED.items():
            if type(module) is packed:
                unpacked.append((path, _unpacked(module, plain)))
    model.update_modules(tree_unflatten(unpacked))


UNPACKED: dict[type[nn.Module], Any] = {
    distributed.QuantizedAllToShardedLinear: distributed.AllToShardedLinear,
    distributed.QuantizedShardedToAllLinear: distributed.ShardedToAllLinear,
}


def _unpacked(module: Any, plain: Any) -> nn.Module:
    how = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
    ranks = module.group.size()
    layer: nn.Module = plain(ranks, ranks, bias="bias" in module, group=module.group)
    layer.weight = mx.dequantize(module.weight, module.scales, module.biases, **how)
    if "bias" in module:
        layer.bias = module.bias
    return layer
