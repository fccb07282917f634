"""What each rank holds of a model that ranks share, by declaring its part: none of them has to run.

mlx-lm's own `shard` splits the declared model, so what is copied to every rank (embedding, head,
norms) is counted whole, and what cannot be split is refused in the words of `model.sharding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx import nn

from llm_spec.model import sharding
from llm_spec.model.declare import declare
from llm_spec.model.packed import alike
from llm_spec.model.repeats import Kinds, Repeats
from llm_spec.observe.hooks import patched
from llm_spec.observe.modules import walk
from llm_spec.performance import capacity
from llm_spec.performance.plan import LONGEST_CONTEXT, Variant
from llm_spec.performance.roofline import weights_read


@dataclass(frozen=True)
class FirstOf:
    """Stands for the group of `ranks` that the first of them sees: a split asks for no more."""

    ranks: int

    def size(self) -> int:
        """How many share the model."""
        return self.ranks

    def rank(self) -> int:
        """Which of them this is."""
        return 0


def variants(
    name: str,
    config: Mapping[str, Any],
    widths: Iterable[int | None],
    ranks: int,
    fused: bool,
    longest: int = LONGEST_CONTEXT,
) -> tuple[list[Variant], str]:
    """As `capacity.variants`, but of what the first of `ranks` holds, reads and computes, at each
    width at which they can share the model; and why they cannot at the others, in one clause.

    Parameters and bits per weight stay those of the whole model. Raises BadConfig.
    """
    widths = list(widths)
    whole = capacity.variants(name, config, widths, fused, longest)
    found, refused = [], []
    try:
        plain = part(config, None, ranks)
    except sharding.CannotShare as error:
        return [], str(error)
    walked, kinds = walk(plain), Kinds()
    with patched(_nothing_is_sent(ranks)):
        course, read = capacity.costs(plain, Repeats(walked, kinds), config, longest, fused)
    for bits, each in zip(widths, whole, strict=True):
        try:
            weights = alike(walk(part(config, bits, ranks)) if bits else walked, Kinds())
        except sharding.CannotShare as error:
            refused.append(str(error))
            continue
        held = sum(modules.bytes for modules in weights)
        found.append(replace(each, weights=held, read=weights_read(weights, read), course=course))
    return found, "; ".join(refused)


def part(
    config: Mapping[str, Any], bits: int | None, ranks: int, dtype: mx.Dtype = mx.bfloat16
) -> nn.Module:
    """What the first of `ranks` holds of a model, declared. Raises CannotShare and BadConfig."""
    model = declare(config, bits, dtype=dtype)
    try:
        group: Any = FirstOf(ranks)
        sharding.shard(model, group)
    except sharding.CannotShare as error:
        raise sharding.CannotShare(f"at {bits or 16} bits, {error}") from error
    return model


def _nothing_is_sent(ranks: int) -> list[tuple[Any, str, Callable[..., Any]]]:
    """What ranks send each other, where only shapes are asked for."""
    return [
        (mx.distributed, "all_sum", lambda x, **_: x),
        (mx.distributed, "all_gather", lambda x, **_: mx.concatenate([x] * ranks)),
    ]
