"""Whether a trained model was made for the rotary embeddings that it is given: rows of q and k in
order in every layer, and the base that it was trained with.

A model of which a third of the layers is wrong, or whose base is, still predicts ordinary text far
better than letter pairs do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import log
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from llm_spec.model.row_order import in_halves
from llm_spec.observe.recorder import layers_of
from llm_spec.quality.context import rows_in_another_order, rows_of_queries_and_keys
from llm_spec.quality.likelihood import token_logprobs

# A layer's norms of paired rows differ less from each other than those of neighbours do: of 48
# layers of SmolLM2 and Gemma 3 the least share is 0.89; with rows interleaved all but one come to
# 0.74 at most.
LEAST_SHARE = 0.8
FACTORS = (1 / 16, 1 / 4, 4, 16)


class Saved(NamedTuple):
    """Bits per token that a text costs less after a change, and the standard error of the mean."""

    bits: float
    error: float


def layers_that_look_permuted(model: nn.Module) -> list[int] | None:
    """Indices of the layers whose rows of q and k look as if they lay in pairs side by side; None
    where no layer has rows that are turned in halves.

    The two rows that are turned together are turned into each other, so training gives them norms
    of one size, and rows of other frequencies norms of another.
    """
    shares = [_share(layer) for layer in layers_of(model)]
    if all(share is None for share in shares):
        return None
    return [i for i, share in enumerate(shares) if share is not None and share < LEAST_SHARE]


def saved_by_reordering(model: nn.Module, layers: Sequence[int], token_ids: list[int]) -> Saved:
    """What a text costs less with the rows of q and k of these layers taken apart."""
    before = _bits(model, token_ids)
    with ExitStack() as reordered:
        for index in layers:
            layer = layers_of(model)[index]
            reordered.enter_context(rows_in_another_order(layer, interleaved=False))
        return saved(before, _bits(model, token_ids))


def saved_by_other_bases(model: nn.Module, token_ids: list[int]) -> dict[str, Saved]:
    """What a text costs less with another RoPE base, by the base and the factor on it; nothing
    where the model has no rotary embeddings of MLX. Bases of several kinds of layers change one
    after the other."""
    kinds: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        if base := _base(module):
            kinds.setdefault(f"{base:,.4g}", []).append(module)
    if not kinds:
        return {}
    before, found = _bits(model, token_ids), {}
    for kind, modules in kinds.items():
        for factor in FACTORS:
            with _base_times(modules, factor):
                found[f"{kind} × {factor:g}"] = saved(before, _bits(model, token_ids))
    return found


def matrix(projection: Any) -> mx.array:
    """The matrix of a linear module in float32, (outputs, inputs), unpacked where it is packed."""
    weight, scales = projection["weight"], projection.get("scales")
    if scales is not None:
        how = projection.group_size, projection.bits, getattr(projection, "mode", "affine")
        weight = mx.dequantize(weight, scales, projection.get("biases"), *how)
    return weight.astype(mx.float32)


def saved(before: np.ndarray, after: np.ndarray) -> Saved:
    """What tokens cost less after a change, by each one's bits, (tokens,), before and after."""
    less = before - after
    return Saved(float(less.mean()), float(less.std(ddof=1) / len(less) ** 0.5))


def _share(layer: nn.Module) -> float | None:
    """How far the norms of neighbouring rows of q and k are apart, over those of rows that are
    turned together."""
    stored = apart = 0.0
    for projection, width in rows_of_queries_and_keys(layer):
        norms = mx.log(mx.linalg.norm(matrix(projection), axis=-1))
        stored += _between_halves(norms, width)
        apart += _between_halves(in_halves(norms, width), width)
    return apart / stored if stored else None


def _between_halves(norms: mx.array, width: int) -> float:
    heads = np.array(norms).reshape(-1, 2, width // 2)
    apart = np.abs(heads[:, 0] - heads[:, 1])
    return float(np.mean(apart[np.isfinite(apart)]))  # a row of zeros has no size


def _base(module: Any) -> float | None:
    """The base of a rotary embedding: stated, or told by its second wavelength, which scalings for
    a long context leave as it is."""
    if isinstance(module, nn.RoPE):
        return float(module.base)
    waves = getattr(module, "_freqs", None)
    if isinstance(waves, mx.array) and waves.ndim == 1 and hasattr(module, "dims"):
        wavelengths: Any = waves.tolist()
        return float(wavelengths[1] ** len(waves)) if len(waves) > 1 else None
    return None


@contextmanager
def _base_times(modules: Sequence[Any], factor: float) -> Iterator[None]:
    names = ["base" if isinstance(module, nn.RoPE) else "_freqs" for module in modules]
    before = [getattr(module, name) for module, name in zip(modules, names, strict=True)]
    try:
        for module, name, value in zip(modules, names, before, strict=True):
            if name == "_freqs":
                setattr(module, name, value * factor ** (mx.arange(len(value)) / len(value)))
            else:
                setattr(module, name, value * factor)
        yield
    finally:
        for module, name, value in zip(modules, names, before, strict=True):
            setattr(module, name, value)


def _bits(model: Any, token_ids: list[int]) -> np.ndarray:
    return -token_logprobs(model, token_ids) / log(2)
