"""Laws of rotary embeddings: the base that a configuration states is the base that turns.

A wrong base passes every law that holds a model to itself: it changes nothing for short distances
and little for a random model. So the base is changed, and the logits must move.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

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
    """The model uses the RoPE base that its config states, of each kind of layers that has its own.

    A port that takes the stated base for granted uses it, too: transformers 5 writes the base into
    rope_parameters, where many a port does not look, and its default may be the same.
    """
    base, kinds = _base(case.config), _bases_of_kinds(case.config)
    if base is None and not kinds:
        return not_applicable(NO_BASE)
    ignored = [kind for kind, stated in kinds.items() if not _is_used_in(case, kind, stated)]
    if not ignored and (kinds or _is_used(case, base)):
        return same("the stated RoPE base", "used", "used")
    if not _turned_by(case):
        return not_applicable(NO_EFFECT)
    where = f" in layers of {', '.join(ignored)}" if ignored else ""
    if not ignored and text_config(case.config).get("rope_theta", base) != base:
        where = " of rope_parameters (rope_theta states another)"
    return same(f"the stated RoPE base{where}", "ignored", "used")


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


def _is_used(case: Case, base: float | None) -> bool:
    """Whether the base, stated at both places where a port may look, gives the logits that the
    model gives, and another base others."""
    if base is None:
        return False
    as_it_is, stated = case.config, _with_base_everywhere(case.config, base)
    if stated != as_it_is:  # both are loaded anew: a load may round, where heads are normalised
        models = [reloaded(case.model, config) for config in (as_it_is, stated)]
        one, other = (logits_of(model, case.token_ids) for model in models)
        if not np.array_equal(one, other):
            return False
    return _moved(case, reloaded(case.model, _with_base_everywhere(case.config, base / 50)))


def _is_used_in(case: Case, kind: str, base: float) -> bool:
    """Whether another base for one kind of layers gives other logits, or one turns by this base."""
    config = copy.deepcopy(case.config)
    text_config(config)["rope_parameters"][kind]["rope_theta"] = base / 50
    return _moved(case, reloaded(case.model, config)) or base in _turned_by(case)


def _base(config: dict[str, Any]) -> float | None:
    settings = text_config(config)
    base = (settings.get("rope_parameters") or {}).get("rope_theta", settings.get("rope_theta"))
    return base if isinstance(base, int | float) and base else None


def _bases_of_kinds(config: dict[str, Any]) -> dict[str, float]:
    """The base of each kind of layers that the model has, if rope_parameters has one for each."""
    settings = text_config(config)
    parts = (settings.get("rope_parameters") or {}).items()
    bases = {kind: part["rope_theta"] for kind, part in parts if _states_a_base(part)}
    present = settings.get("layer_types")
    if not isinstance(present, list) or bases.keys().isdisjoint(present):
        return bases
    return {kind: base for kind, base in bases.items() if kind in present}


def _states_a_base(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("rope_theta"), int | float)


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


def _with_base_everywhere(config: dict[str, Any], base: float) -> dict[str, Any]:
    """The config with a base in rope_theta and, if it has them, in rope_parameters."""
    changed = copy.deepcopy(config)
    text = text_config(changed)
    text["rope_theta"] = base
    if text.get("rope_parameters"):
        text["rope_parameters"]["rope_theta"] = base
    return changed


def _turned_by(case: Case) -> set[float | None]:
    """The bases by which a pass turns queries or keys with MLX's own rotation, which all ports use;
    None for angles that a port computed itself."""
    bases: set[float | None] = set()

    def watched(*args: Any, **kwargs: Any) -> mx.array:
        bases.add(kwargs.get("base"))
        return rope(*args, **kwargs)

    rope, mx.fast.rope = mx.fast.rope, watched
    try:
        declare_pass(case.model, case.token_ids[:4])
    finally:
        mx.fast.rope = rope
    return bases


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
