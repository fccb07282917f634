"""Laws of mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.laws.case import Case
from llm_spec.laws.execution import declare_pass
from llm_spec.laws.finding import Finding, law, not_applicable, same
from llm_spec.laws.model.storage import Silent
from llm_spec.observe.hooks import watched

FAR = 30.0  # a score at which a sigmoid is one, and below which, negated, it is zero


@law
def the_best_expert_is_asked(case: Case) -> Finding:
    """An expert whose router score is by far the highest is among those used for the token.

    The rows of one router are laid along its input, so that one expert scores high and all others
    low, whatever is made of scores: softmax, sigmoid, groups, corrections.
    """
    found = next(_routers(case.model), None)
    if found is None:
        return not_applicable("it has no router of experts whose scores are one matrix")
    block, path, experts = found
    router = dict(tree_flatten(block.parameters()))[path]
    wrong = []
    try:
        stream = _asked(case, block)[0]
        if stream is None or stream.shape != router.shape[-1:]:
            return not_applicable("its router does not read what its layer of experts reads")
        direction = stream / (stream * stream).sum()
        for best in (0, experts // 2, experts - 1):
            scores = mx.where(mx.arange(experts)[:, None] == best, FAR, -FAR)
            block.load_weights([(path, (scores * direction).astype(router.dtype))], strict=False)
            asked = _asked(case, block)[1]
            if best not in asked:
                wrong.append(f"{best}, but {sorted(set(asked)) or 'none'}")
    finally:
        block.load_weights([(path, router)], strict=False)
    return same("experts with the highest score that were not used", wrong, [])


def _routers(model: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """Modules with experts of their own: the module, its router's path in it, and their number."""
    for _, module in model.named_modules():
        for child in module.children().values():
            switches = [m for m in _below(child) if hasattr(m, "num_experts") and "weight" in m]
            if not switches or not isinstance(child, nn.Module):
                continue
            experts = switches[0].weight.shape[0]
            routers = [
                path
                for path, array in tree_flatten(module.parameters())
                if array.ndim == 2
                and array.shape[0] == experts
                and mx.issubdtype(array.dtype, mx.floating)
                and path.endswith("weight")
            ]
            if len(routers) == 1:
                yield module, routers[0], experts


def _below(child: Any) -> list[nn.Module]:
    return child.modules() if isinstance(child, nn.Module) else []


def _asked(case: Case, block: nn.Module) -> tuple[mx.array | None, list[int]]:
    """What the block read of the last token, (width,), and the experts that token was sent to."""
    seen: dict[str, Any] = {}

    class Watch(Silent):
        def entered(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            if module is block and "stream" not in seen:
                seen["stream"] = args[0][0, -1]
            elif "stream" in seen and hasattr(module, "num_experts") and len(args) > 1:
                seen.setdefault("asked", np.array(args[1]).reshape(-1))

    with watched(case.model, None, Watch()):
        declare_pass(case.model, case.token_ids[:1])
    return seen.get("stream"), [int(expert) for expert in seen.get("asked", ())]
