"""The law that no weight matrix stands where another one belongs.

A conversion that writes one tensor twice, or leaves an expert empty, gives a model that keeps every
law of a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from llm_spec.laws.case import Case
from llm_spec.laws.finding import Finding, law_of_storage, not_applicable, same

SAMPLED = 64  # numbers of a matrix that tell whether it is worth comparing
MENTIONED = 3


@law_of_storage
def matrices_differ(case: Case) -> Finding:
    """No two weight matrices hold the same numbers, experts of a layer included, and no expert's
    are all zero.

    Embedding tables are left out, because a head may be stored as a copy of one, and so is a matrix
    that is one number throughout.
    """
    alike: dict[tuple[Any, ...], list[tuple[str, mx.array]]] = {}
    wrong, compared = [], 0
    for path, module in _with_matrices(case.model):
        experts = module.weight.ndim == 3 and hasattr(module, "num_experts")
        stack = module.weight if experts else module.weight[None]  # (experts, rows, columns)
        held = np.array(_holds_numbers(module, stack)) if experts else None
        for i, sample in enumerate(_samples(stack)):
            compared += 1
            name = f"{path} of expert {i}" if experts else path
            if held is not None and not held[i]:
                wrong.append(f"{name} (zeros)")
            if len(set(sample)) == 1:
                continue
            others = alike.setdefault((stack.shape[1:], sample), [])
            if same_as := [other for other, array in others if _equal(array, stack[i])]:
                wrong.append(f"{name} (as {same_as[0]})")
            others.append((name, stack[i]))
    if compared < 2:
        return not_applicable("it has fewer than two weight matrices")
    more = f" and {len(wrong) - MENTIONED} more" if len(wrong) > MENTIONED else ""
    told = ", ".join(wrong[:MENTIONED]) + more
    return same("matrices that hold another's numbers or none", told or "none", "none")


def _with_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with a weight matrix, or one for each expert; one that is used twice comes once."""
    seen = set()
    for path, module in reversed(model.named_modules()):  # the first layer comes first
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) or id(module) in seen:
            continue
        weight = module.get("weight")
        if isinstance(weight, mx.array) and weight.ndim >= 2:
            seen.add(id(module))
            yield path, module


def _holds_numbers(module: nn.Module, stack: mx.array) -> mx.array:
    """Whether a matrix is not all zero, of each of a stack (matrices, rows, columns): (matrices,).
    What is packed is zero where its scales are."""
    scales = module.get("scales")
    held = mx.any((stack != 0).reshape(len(stack), -1), axis=1)
    return held if scales is None else held & mx.any((scales != 0).reshape(len(stack), -1), axis=1)


def _samples(stack: mx.array) -> list[tuple[float, ...]]:
    """A few numbers of each matrix, from all over it; `stack` is (matrices, rows, columns)."""
    flat = stack.reshape(len(stack), -1)
    places = np.linspace(0, flat.shape[1] - 1, SAMPLED).astype(np.int64)
    found = flat[:, mx.array(places)]
    wide = found if found.dtype == mx.uint32 else found.astype(mx.float32)
    return [tuple(row) for row in np.array(wide).tolist()]


def _equal(one: mx.array, other: mx.array) -> bool:
    return one.dtype == other.dtype and bool(mx.array_equal(one, other).item())
