"""Laws of the configuration: what it says reaches the model."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caching
from mlx_lm.utils import _get_classes

from llm_spec.laws.case import Case
from llm_spec.laws.execution import declare_pass, logits_of
from llm_spec.laws.finding import (
    Finding,
    law,
    law_of_storage,
    not_applicable,
    same,
    vacuous,
    within_rounding,
)
from llm_spec.laws.model.forward import LEAST_SPREAD
from llm_spec.laws.model.round_trip import reloaded
from llm_spec.laws.model.storage import Silent
from llm_spec.model.config import text_config
from llm_spec.model.declare import random_state_kept, signatures_kept
from llm_spec.numerics import distances
from llm_spec.observe.hooks import watched
from llm_spec.observe.recorder import layers_of

DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_transformer_layers")


@law
def a_spare_head_is_dropped(case: Case) -> Finding:
    """A model with tied embeddings loads a file that also contains a head."""
    if not text_config(case.config).get("tie_word_embeddings"):
        return not_applicable("its head is not tied")
    names = [name for name, _ in tree_flatten(case.model.parameters())]
    untied = copy.deepcopy(case.config)
    text_config(untied)["tie_word_embeddings"] = False
    more = sorted(_names(untied) - set(names))
    if len(more) != 1:
        return not_applicable("untied, it has no head of its own")
    tables = [module.weight for module in case.model.modules() if isinstance(module, nn.Embedding)]
    if not tables:
        return not_applicable("its embeddings are packed")
    logits = logits_of(reloaded(case.model, case.config, {more[0]: tables[0]}), case.token_ids)
    if distances.distance(case.logits[:1], case.logits[1:2]) < LEAST_SPREAD:
        return vacuous("all logits are alike")
    missed = distances.distance(logits, case.logits)
    return within_rounding("distance of logits after loading a spare head", missed, case)


@law_of_storage
def the_configuration_declares_the_weights(case: Case) -> Finding:
    """The config declares exactly the arrays that the model holds, in their shapes."""
    if not case.config:
        return not_applicable("no configuration to make a model of")
    if case.is_packed:
        return not_applicable("its weights are quantised")
    arrays = dict(tree_flatten(case.model.parameters()))
    held = {name: array.shape for name, array in arrays.items()}
    declared = _arrays(case.config)
    if declared.keys() - held.keys():  # a port may build a head, and drop it where a file has none
        declared = _arrays(case.config, loading=arrays)
    wrong = sorted(
        f"{name}: {held.get(name, 'missing')} instead of {declared.get(name, 'none')}"
        for name in declared.keys() | held.keys()
        if declared.get(name) != held.get(name)
    )
    return same("arrays other than declared", "; ".join(wrong[:3]) or "none", "none")


@law_of_storage
def layers_and_caches_are_counted(case: Case) -> Finding:
    """A model has as many layers as its config states, and every layer that runs without a cache
    also runs with one."""
    settings = text_config(case.config)
    stated = next((settings[name] for name in DEPTHS if name in settings), None)
    layers = len(layers_of(case.model))
    if stated is not None and layers != stated:
        return same("layers", layers, stated)
    cache = caching.make_prompt_cache(case.model)
    alone, cached = (_run(case, held) for held in (None, cache))
    return same("layers that do not run with a cache", len(alone - cached), 0)


def _run(case: Case, cache: list[Any] | None) -> set[int]:
    """Which layers a short pass runs."""
    layers = {id(layer): i for i, layer in enumerate(layers_of(case.model))}
    run: set[int] = set()

    class Watch(Silent):
        def entered(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            if id(module) in layers:
                run.add(layers[id(module)])

    with watched(case.model, None, Watch()):
        declare_pass(case.model, case.token_ids[:2], cache)
    return run


def _names(config: dict[str, Any]) -> set[str]:
    """Names of the arrays of the model that a configuration makes."""
    return set(_arrays(config))


def _arrays(
    config: dict[str, Any], loading: dict[str, mx.array] | None = None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of the model that a configuration makes, none given memory.

    `loading`: the arrays of a file, which the model looks at as mlx-lm has it do when it loads one.
    """
    with random_state_kept(), signatures_kept():
        model_class, args_class = _get_classes(config)
        model = model_class(args_class.from_dict(copy.deepcopy(config)))
        if loading is not None and hasattr(model, "sanitize"):
            model.sanitize(dict(loading))
    return {name: array.shape for name, array in tree_flatten(model.parameters())}
