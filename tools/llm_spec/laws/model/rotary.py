"""Laws of rotary embeddings: the base that a configuration states is the base that turns.

A wrong base passes every law that holds a model to itself: it changes nothing for short distances
and little for a random model. So the base is changed, and the logits must move.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from llm_spec.laws.case import Case
from llm_spec.laws.execution import declare_pass, logits_of
from llm_spec.laws.finding import Finding, law, not_applicable, same
from llm_spec.laws.model.forward import LEAST_SPREAD
from llm_spec.laws.model.round_trip import reloaded
from llm_spec.model.config import text_config
from llm_spec.numerics import distances

NO_BASE = "its configuration has no one base of rotary embeddings"
FEW = 8  # tokens that are turned by angles far enough apart
NO_EFFECT = "it has no rotary embeddings that a base could change"


@law
def rope_base_is_read(case: Case) -> Finding:
    """The model uses the RoPE base that its config states, at either place in the config."""
    base = _base(case.config)
    if base is None:
        return not_applicable(NO_BASE)
    nested = _stands_in_parameters(case.config)
    if _moved(case, _with_base(case, base / 50, nested)):
        return same("the stated RoPE base", "used", "used")
    return (
        same("the stated RoPE base", "ignored", "used")
        if _rotates(case)
        else not_applicable(NO_EFFECT)
    )


@law
def rope_parameters_are_read(case: Case) -> Finding:
    """The RoPE base is read where transformers 5 writes it, and nowhere else: in rope_parameters.

    Two bases are tried, so that a default that happens to be right does not pass for the stated.
    """
    base = _base(case.config)
    if base is None:
        return not_applicable(NO_BASE)
    one, other = (_with_base(case, base / part, nested=True) for part in (50, 7))
    if _moved(case, one, other):
        return same("the RoPE base in rope_parameters", "used", "used")
    if not _moved(case, _with_base(case, base / 50, nested=False)):
        return not_applicable(NO_EFFECT)
    return same("the RoPE base in rope_parameters", "ignored", "used")


def _base(config: dict[str, Any]) -> float | None:
    settings = text_config(config)
    base = (settings.get("rope_parameters") or {}).get("rope_theta", settings.get("rope_theta"))
    return base if isinstance(base, int | float) and base else None


def _stands_in_parameters(config: dict[str, Any]) -> bool:
    return "rope_theta" in (text_config(config).get("rope_parameters") or {})


def _with_base(case: Case, base: float, nested: bool) -> nn.Module:
    """The model with another base, in rope_parameters or beside it."""
    config = copy.deepcopy(case.config)
    text = text_config(config)
    text.pop("rope_theta", None)
    stated = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if nested:
        text["rope_parameters"] = {"rope_type": "default", **stated, "rope_theta": base}
    else:
        stated.pop("rope_theta", None)
        text["rope_theta"] = base
    return reloaded(case.model, config)


def _rotates(case: Case) -> bool:
    """Whether a pass turns queries or keys by MLX's own rotation, which all ports use."""
    rotated = []

    def watched(*args: Any, **kwargs: Any) -> mx.array:
        rotated.append(True)
        return rope(*args, **kwargs)

    rope, mx.fast.rope = mx.fast.rope, watched
    try:
        declare_pass(case.model, case.token_ids[:4])
    finally:
        mx.fast.rope = rope
    return bool(rotated)


def _moved(case: Case, model: nn.Module, other: nn.Module | None = None) -> bool:
    """Whether `model` computes something else than `other`, or than the case's own model.

    A base turns every token but the first: a few tell whether it is used, and where it does little
    to them all are read.
    """
    moved = 0.0
    for ids in (case.token_ids[:FEW], case.token_ids):
        wanted = logits_of(case.model if other is None else other, ids)
        moved = distances.distance(logits_of(model, ids), wanted)
        if not 0 < moved <= LEAST_SPREAD:
            break
    return moved > LEAST_SPREAD
