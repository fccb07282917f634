"""Laws of settings: what config.json states and a port never reads changes nothing.

A port that ignores a setting passes every law that holds a model to itself. So each setting is
changed, and the logits must move by a bit at least.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import mlx.nn as nn
import numpy as np

from llm_spec.laws.execution import feed_in_chunks, logits_of
from llm_spec.laws.finding import Case, Finding, law_of_storage, not_applicable, same
from llm_spec.laws.model.round_trip import reloaded
from llm_spec.model.config import text_config

# Kinds of RoPE that turn a short text as plain RoPE does.
PLAIN_AT_FIRST = (None, "default", "mrope", "dynamic")
FEW = 8  # tokens, which most settings move already
SHORT = 4  # tokens of a window that every prompt is longer than
# What a port may have built in as it is stated: it is told where it is not read, and no fault.
BUILT_IN: dict[str, Any] = {
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"), 0.5),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), 0.01),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "attention_multiplier"), 3.0),
    **dict.fromkeys(("logits_scaling", "logit_scale", "scale_emb", "scale_depth"), 3.0),
    **dict.fromkeys(("query_pre_attn_scalar", "routed_scaling_factor"), 7.0),
    "partial_rotary_factor": 0.25,
    "norm_topk_prob": None,  # the opposite
}


@law_of_storage
def stated_settings_are_read(case: Case) -> Finding:
    """The scaling of RoPE and the window of attention that the configuration states are used.

    Other settings that change nothing are named and no fault: a port may have built in what they
    say.
    """
    settings = text_config(case.config)
    context, others = dict(_of_the_context(settings)), dict(_of_any_length(settings))
    if not context and not others:
        return not_applicable("its configuration states no setting that is known here")
    built_in = [key for key, value in others.items() if not _moves(case, key, value)]
    told = f" (changing these moves nothing, too: {', '.join(built_in)})" if built_in else ""
    ignored = [key for key, value in context.items() if not _moves(case, key, value)]
    return same(
        f"settings of the context stated and ignored{told}", ", ".join(ignored) or "none", "none"
    )


def _of_any_length(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings that matter for any text, and another value for each."""
    for key, other in BUILT_IN.items():
        if (stated := settings.get(key)) is not None:
            yield key, not stated if other is None else other


def _of_the_context(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings that matter for a long context, and another value for each."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = settings.get(key)
        if isinstance(scaling, dict):
            kind = scaling.get("rope_type", scaling.get("type"))
            if kind not in PLAIN_AT_FIRST and scaling.get("factor") != 1:
                plain = {**scaling, "rope_type": "default", "type": "default"}
                yield key, None if key == "rope_scaling" else plain
    window = settings.get("sliding_window")
    if type(window) is int and 0 < window < _longest(settings) and _slides(settings):
        yield "sliding_window", SHORT if window > SHORT else SHORT - 1


def _longest(settings: dict[str, Any]) -> int:
    longest = settings.get("max_position_embeddings")
    return longest if type(longest) is int else 1 << 60


def _slides(settings: dict[str, Any]) -> bool:
    """Whether any layer has the window, as far as the configuration says."""
    kinds = settings.get("layer_types")
    if isinstance(kinds, list):
        return any("sliding" in str(kind) for kind in kinds)
    first, layers = settings.get("max_window_layers"), settings.get("num_hidden_layers")
    none_left = type(first) is int and type(layers) is int and first >= layers
    return settings.get("use_sliding_window", _slides_unless_told(settings)) and not none_left


def _slides_unless_told(settings: dict[str, Any]) -> bool:
    """What transformers takes for granted of the model's type: Qwen's windows wait to be asked."""
    from transformers import CONFIG_MAPPING  # here: it takes a second

    kind = settings.get("model_type")
    known = kind in CONFIG_MAPPING
    return bool(getattr(CONFIG_MAPPING[kind], "use_sliding_window", True)) if known else True


def _moves(case: Case, key: str, value: Any) -> bool:
    """Whether another value gives other logits, in one pass or token by token with a cache."""
    config = copy.deepcopy(case.config)
    text_config(config)[key] = value
    try:
        changed = reloaded(case.model, config)
    except Exception:
        return True  # a value that stops a load was read
    few = tuple(case.token_ids[:FEW])  # of as many tokens: bits depend on the shapes of products
    if not np.array_equal(logits_of(changed, few), case.once(_logits, few)):
        return True
    if not np.array_equal(logits_of(changed, case.token_ids), case.logits):
        return True
    return not np.array_equal(_step_by_step(case, changed), case.once(_step_by_step))


def _logits(case: Case, token_ids: tuple[int, ...]) -> np.ndarray:
    return logits_of(case.model, token_ids)


def _step_by_step(case: Case, model: nn.Module | None = None) -> np.ndarray:
    """(tokens, vocabulary): logits of `model`, or of the case's own, of which the last two tokens
    come one by one."""
    steps = [len(case.token_ids) - 2, 1, 1]
    return feed_in_chunks(model or case.model, case.token_ids, steps)[0]
