"""Laws of settings: what config.json states and a port never reads changes nothing.

A port that ignores a setting passes every law that holds a model to itself. So each setting is
changed, and the logits must move by a bit at least.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import mlx.nn as nn
from mlx_lm import utils as loading

from llm_spec.laws.case import Case
from llm_spec.laws.finding import Finding, law_of_storage, not_applicable, same
from llm_spec.laws.model.probing import probed
from llm_spec.model.config import text_config

# Kinds of RoPE that turn a text as plain RoPE does.
PLAIN = (None, "default", "mrope")
FEW = 3  # tokens, which settings for any text move
WINDOWS = ("sliding_window", "sliding_window_size")  # which files of MiMo state both
SHOWS_A_WINDOW = 8  # tokens
SHORT = 4  # tokens of a window that every prompt is longer than
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap", "clip_qkv")
MULTIPLIERS = (
    *("embedding_multiplier", "residual_multiplier", "attention_multiplier", "key_multiplier"),
    *("lm_head_multiplier", "attention_in_multiplier", "attention_out_multiplier", "scale_depth"),
    *("ssm_in_multiplier", "ssm_out_multiplier", "logits_scaling", "logit_scale", "scale_emb"),
    *("query_pre_attn_scalar", "routed_scaling_factor", "attention_scale"),
)
CHOICES = (
    *("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k"),
    *("moe_k", "moe_router_topk"),
)
SHARES = ("partial_rotary_factor", "rotary_pct")
SWITCHES = ("norm_topk_prob", "tie_word_embeddings")
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_approx", "gelu_pytorch")
# What transformers declares of a model type and no text's logits depend on, by parts of the name.
NOT_COMPUTED = re.compile(
    r"dropout|initializ|token|cache|output_|return_|loss|coef|jitter|implementation|version|_tp$|"
    r"is_decoder|cross_attention|use_sliding_window|training|gradient|vision|audio|image|chunk_size"
)
# A conversion may have put these into the weights, or left them out of the files.
IN_THE_WEIGHTS = (*MULTIPLIERS, "tie_word_embeddings")
# What a port may have built in: told where it is not read, and a fault where it is stated to be
# another than the model type's own.
OF_ANY_LENGTH: dict[str, Any] = {
    **dict.fromkeys(EPSILONS, lambda stated: 0.5),
    **dict.fromkeys(SOFT_CAPS, lambda stated: 0.01),
    **dict.fromkeys(MULTIPLIERS, lambda stated: 2.5 * stated + 1),
    **dict.fromkeys(CHOICES, lambda stated: stated + 1),
    **dict.fromkeys(SWITCHES, lambda stated: not stated),
    **dict.fromkeys(ACTIVATIONS, lambda stated: "relu" if stated != "relu" else "silu"),
    "topk_method": lambda stated: "greedy" if stated != "greedy" else "group_limited_greedy",
    "scoring_func": lambda stated: "softmax" if stated != "softmax" else "sigmoid",
    "n_group": lambda stated: 2 if stated == 1 else 1,
    **dict.fromkeys(SHARES, lambda stated: 0.25 if stated != 0.25 else 0.5),
}
ALONGSIDE: dict[str, dict[str, Any]] = {"n_group": {"topk_group": 1}}
# Where transformers 5 writes what RoPE is told, and where files before it do.
ROTARY = ("rope_parameters", "rope_scaling")
TURNED, ATTENTION_FACTOR = "partial_rotary_factor", "attention_factor"
PLAIN_ROPE = {"rope_type": "default", "type": "default"}
JUDGED = {
    *(OF_ANY_LENGTH.keys() - set(IN_THE_WEIGHTS)),
    *(f"{block}.{key}" for block in ROTARY for key in (TURNED, ATTENTION_FACTOR)),
}


@law_of_storage
def stated_settings_are_read(case: Case) -> Finding:
    """What config.json states changes the logits: RoPE scaling, the attention window, and settings
    that matter for any text.

    A setting that changes nothing and says what transformers takes for granted of the model type,
    or of which that is not known, is named and no fault: a port may have built it in. So is a
    multiplier or a tied head, which a conversion may have put into the weights.
    """
    settings = text_config(case.config)
    context, others = dict(_of_the_context(settings)), _apart(dict(_of_any_length(settings)))
    others |= _apart(dict(_declared_elsewhere(settings))) | dict(_of_rotary_parameters(settings))
    growing = dict(_growing_with_a_text(settings))
    if not context and not others and not growing:
        return not_applicable("its configuration states no setting that is known here")
    with probed(case) as probe:
        few = case.token_ids[:SHOWS_A_WINDOW]
        ignored = [
            key
            for key in probe.unmoved(context, few, {})
            if not probe.moves_a_long_text(context[key])
        ]
        ignored += probe.unmoved(growing, few, {"max_position_embeddings": SHORT})
        unmoved = probe.unmoved(others, case.token_ids[:FEW], {})
        beside = {"sliding_window": SHORT} if "sliding_window" in context else {}
        unmoved += probe.unmoved(_apart(dict(_of_single_layers(settings))), few, beside)
    judged = [k for k in unmoved if k in JUDGED]
    other = [key for key in judged if _is_another(case, settings, key)]
    built_in = [key for key in unmoved if key not in other]
    told = f" (changing these changes no logit either: {', '.join(built_in)})" if built_in else ""
    return same(
        f"settings stated and ignored{told}", ", ".join([*ignored, *other]) or "none", "none"
    )


def _apart(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: {key: value, **ALONGSIDE.get(key, {})} for key, value in changes.items()}


def _is_another(case: Case, settings: dict[str, Any], key: str) -> bool:
    """Whether a setting says another value than the port has built in: than transformers takes for
    granted of the type or, of a router, the port's own arguments do; of rotary shares, than the
    model's rotary embeddings turn."""
    block, _, name = key.rpartition(".")
    stated = settings[block][name] if block else settings[key]
    if name in SHARES and (turned := _turned(case, settings)):
        return turned != {int(stated * _head_dim(settings))}
    if name == ATTENTION_FACTOR:  # which mlx-lm reckons from the factor, as transformers does
        reckoned = 0.1 * math.log(settings[block]["factor"]) + 1
        return not math.isclose(stated, reckoned, rel_tol=1e-3)
    usual = _usual(settings, key, None)
    if key in SOFT_CAPS and _usual(settings, key, 0) is None:
        return True  # declared, and none unless it is stated
    if usual is None and key == "scoring_func":
        usual = getattr(loading._get_classes(copy.deepcopy(case.config))[1], key, None)
    if isinstance(stated, str):
        both = ["gelu" if each in GELUS else each for each in (usual, stated)]
        return isinstance(usual, str) and both[0] != both[1]
    return isinstance(usual, int | float) and usual != stated


def _turned(case: Case, settings: dict[str, Any]) -> set[int]:
    """How many numbers of a head the model's rotary embeddings turn; none where not all of them are
    plain RoPE and alike, or the configuration does not tell the head's width."""
    named = case.model.named_modules()
    rotary = [m for path, m in named if "rope" in path.rpartition(".")[2] or isinstance(m, nn.RoPE)]
    plain = all(type(module) is nn.RoPE for module in rotary)
    turned = {module.dims for module in rotary} if plain else set()
    return turned if len(turned) == 1 and _head_dim(settings) else set()


def _head_dim(settings: dict[str, Any]) -> int:
    """The width of a head; 0 where the configuration does not tell, or turns a part of its own."""
    if type(width := settings.get("head_dim")) is int:
        return width
    if "qk_rope_head_dim" in settings:
        return 0
    hidden, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        return hidden // heads
    return 0


def _usual(settings: dict[str, Any], key: str, unknown: Any) -> Any:
    """What transformers takes for granted of the model's type; `unknown` where that is not told."""
    from transformers import CONFIG_MAPPING  # here: it takes a second

    kind = settings.get("model_type")
    return getattr(CONFIG_MAPPING[kind], key, unknown) if kind in CONFIG_MAPPING else unknown


def _of_any_length(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings that matter for any text, and another value for each."""
    for key, other in OF_ANY_LENGTH.items():
        groups = settings.get("n_group"), settings.get("topk_group")
        if key == "n_group" and groups[0] != 1 and groups[0] == groups[1]:
            continue  # all groups are taken, as of one
        if isinstance(stated := settings.get(key), int | float | str):
            yield key, other(stated)


def _declared_elsewhere(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Other factors and switches that transformers declares of the type, or all where it does not
    know the type, and another value for each: told where they move nothing, and no fault, for
    nobody says what they do."""
    foreign = _usual(settings, "model_type", None) is None
    for key, stated in settings.items():
        known = key in OF_ANY_LENGTH or NOT_COMPUTED.search(key) or key.startswith("_")
        if known or (not foreign and _usual(settings, key, None) is None):
            continue
        if isinstance(stated, bool):
            yield key, not stated
        elif isinstance(stated, float):
            yield key, 2.5 * stated + 1


def _of_the_context(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that matter for a long context, and another value for each."""
    for block, layers, scaling in _scalings(settings):
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind not in (*PLAIN, "dynamic") and scaling.get("factor") != 1:
            yield ".".join([block, *layers]), _rotary(settings, block, layers, PLAIN_ROPE)
    window = settings.get("sliding_window")
    if type(window) is int and 0 < window < _longest(settings) and _slides(settings):
        shorter = SHORT if window > SHORT else SHORT - 1
        yield "sliding_window", {key: shorter for key in WINDOWS if settings.get(key) == window}

    chunk, kinds = settings.get("attention_chunk_size"), settings.get("layer_types")
    chunked = isinstance(kinds, list) and any("chunked" in str(kind) for kind in kinds)
    if type(chunk) is int and 0 < chunk < _longest(settings) and chunked:
        shorter = SHORT if chunk > SHORT else SHORT - 1
        yield "attention_chunk_size", {"attention_chunk_size": shorter}


def _growing_with_a_text(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """RoPE that is scaled only past the longest context, which the prompt is made to pass."""
    for block, kinds, scaling in _scalings(settings):
        if scaling.get("rope_type", scaling.get("type")) == "dynamic":
            yield ".".join([block, *kinds]), _rotary(settings, block, kinds, PLAIN_ROPE)


def _of_rotary_parameters(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings of RoPE that matter for any text, and another value for each."""
    for block, kinds, scaling in _scalings(settings):
        if kinds:
            continue  # of a kind of layers: which of them are the first is not told
        stated = scaling.get(TURNED)
        if isinstance(stated, int | float):
            other = {TURNED: OF_ANY_LENGTH[TURNED](stated)}
            yield f"{block}.{TURNED}", _rotary(settings, block, kinds, other)
        stated, factor = scaling.get(ATTENTION_FACTOR), scaling.get("factor")
        yarn = scaling.get("rope_type", scaling.get("type")) == "yarn"
        if yarn and isinstance(stated, int | float) and isinstance(factor, int | float):
            other = {ATTENTION_FACTOR: 2 * stated}
            yield f"{block}.{ATTENTION_FACTOR}", _rotary(settings, block, kinds, other)


def _scalings(settings: dict[str, Any]) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """What is said of RoPE: in which block, of which kind of layers ([]: of all), and what."""
    for block in ROTARY:
        scaling = settings.get(block)
        if not isinstance(scaling, dict):
            continue
        parts = {kind: part for kind, part in scaling.items() if isinstance(part, dict)}
        for kind, part in parts.items():
            yield block, [kind], part
        if not parts:
            yield block, [], scaling


def _rotary(
    settings: dict[str, Any], block: str, kinds: list[str], changes: dict[str, Any]
) -> dict[str, Any]:
    """The block with changes to what it says, of one kind of layers or of all."""
    stated = settings[block]
    if kinds:
        return {block: {**stated, kinds[0]: {**stated[kinds[0]], **changes}}}
    if block == "rope_scaling" and changes is PLAIN_ROPE:
        return {block: None}
    return {block: {**stated, **changes}}


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
    # Qwen's windows wait to be asked.
    key = "use_sliding_window"
    return bool(settings.get(key, _usual(settings, key, True))) and not none_left


def _of_single_layers(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What tells layers apart, and another value for each: told where it moves nothing, and no
    fault, for one of them may stand for another."""
    kinds = settings.get("layer_types")
    if isinstance(kinds, list) and len(set(map(str, kinds))) > 1:
        yield "layer_types", ["full_attention"] * len(kinds)
    rotated = settings.get("no_rope_layers")
    if isinstance(rotated, list) and rotated:
        yield "no_rope_layers", [int(not each) for each in rotated]
    for key in ("sliding_window_pattern", "no_rope_layer_interval", "layer_group_size"):
        if type(each := settings.get(key)) is int and each > 0:
            yield key, each + 1
