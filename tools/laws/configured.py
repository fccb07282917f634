"""Laws of the configuration: what it says reaches the model."""

from __future__ import annotations

import copy
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from tools import tolerances
from tools.laws.disk import reloaded
from tools.laws.finding import Case, Finding, law, same, vacuous, within, without
from tools.laws.forward import LEAST_SPREAD
from tools.laws.runs import logits_of
from tools.shapes import random_state_kept


@law
def rope_base_is_read(case: Case) -> Finding:
    """The base of rotary embeddings that the configuration states, where it states it, is used."""
    base, nested = _rope_base(case.config)
    if base is None:
        return without("its configuration has no one base of rotary embeddings")
    if _moves(case, _with_base(case.config, base / 50, nested=nested, flat=not nested)):
        return same("the stated base", "used", "used")
    if nested and _moves(case, _with_base(case.config, base / 50, nested=False, flat=True)):
        return same("the base in rope_parameters", "ignored", "used")
    return without("it has no rotary embeddings that a base could change")


@law
def rope_parameters_are_read(case: Case) -> Finding:
    """The base is read also where transformers 5 writes it, and nowhere else: in rope_parameters.

    The base is changed in both places by turns, so that no default passes for it.
    """
    base, _ = _rope_base(case.config)
    if base is None:
        return without("its configuration has no one base of rotary embeddings")
    stated = _with_base(case.config, base / 50, nested=False, flat=True)
    if not _moves(case, stated):
        return without("a base beside rope_parameters has no effect")
    written = _with_base(case.config, base / 50, nested=True, flat=False)
    wanted = logits_of(reloaded(case.model, stated), case.token_ids)
    missed = tolerances.distance(logits_of(reloaded(case.model, written), case.token_ids), wanted)
    return same(
        "the base in rope_parameters", "used" if missed <= case.reordered else "ignored", "used"
    )


@law
def a_spare_head_is_dropped(case: Case) -> Finding:
    """A model with tied embeddings loads a file that holds the head all the same."""
    if not text_of(case.config).get("tie_word_embeddings"):
        return without("its head is not tied")
    names = [name for name, _ in tree_flatten(case.model.parameters())]
    untied = copy.deepcopy(case.config)
    text_of(untied)["tie_word_embeddings"] = False
    more = sorted(_names(untied) - set(names))
    if len(more) != 1:
        return without("untied, it has no head of its own")
    table = next(
        module for module in case.model.modules() if isinstance(module, nn.Embedding)
    ).weight
    logits = logits_of(reloaded(case.model, case.config, {more[0]: table}), case.token_ids)
    if tolerances.distance(case.logits[:1], case.logits[1:2]) < LEAST_SPREAD:
        return vacuous("all logits are alike")
    missed = tolerances.distance(logits, case.logits)
    return within("distance of logits after loading a spare head", missed, case.reordered)


def _rope_base(config: dict[str, Any]) -> tuple[float | None, bool]:
    """The base that a configuration states, and whether it stands in rope_parameters."""
    settings = text_of(config)
    nested = (settings.get("rope_parameters") or {}).get("rope_theta")
    base = settings.get("rope_theta") if nested is None else nested
    return (base, nested is not None) if isinstance(base, int | float) and base else (None, False)


def _with_base(config: dict[str, Any], base: float, nested: bool, flat: bool) -> dict[str, Any]:
    """`config` with this base in one place or both, and none in the other."""
    changed = copy.deepcopy(config)
    text = text_of(changed)
    text.pop("rope_theta", None)
    (text.get("rope_parameters") or {}).pop("rope_theta", None)
    if nested:
        stated = text.get("rope_parameters") or {}
        text["rope_parameters"] = {"rope_type": "default", **stated, "rope_theta": base}
    if flat:
        text["rope_theta"] = base
    return changed


def _moves(case: Case, config: dict[str, Any]) -> bool:
    logits = logits_of(reloaded(case.model, config), case.token_ids)
    return tolerances.distance(logits, case.logits) > LEAST_SPREAD


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the language model, which wrappers keep one level down."""
    return config.get("text_config", config)


def _names(config: dict[str, Any]) -> set[str]:
    """Names of the arrays of the model that a configuration makes; none is given memory."""
    with random_state_kept():
        model_class, args_class = _get_classes(config)
        model = model_class(args_class.from_dict(copy.deepcopy(config)))
    return {name for name, _ in tree_flatten(model.parameters())}
