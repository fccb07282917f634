"""Experiment 5: attention maps, and that they are the model's own."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

from fixtures.models.law_verdict import hold_to_law
from fixtures.texts import prompts
from llm_spec.laws import Case
from llm_spec.laws.model import forward
from llm_spec.laws.model import tracing as laws_of_tracing
from llm_spec.model import tokens
from llm_spec.model.config import text_config
from llm_spec.numerics import tolerances
from llm_spec.numerics.distances import worst
from llm_spec.observe import attention
from llm_spec.observe import trace as tracing
from llm_spec.observe.trace import attention_calls, trace

IDS = [7, 203, 7, 19, 5, 211, 42, 8]  # for laws, which hold on models without a tokenizer too


def lift_the_mask(monkeypatch):
    monkeypatch.setattr(llama, "create_attention_mask", lambda *_, **__: None)


def copy_keys_and_values_for_every_head(monkeypatch):
    attend = llama.scaled_dot_product_attention

    def copying(queries, keys, values, **options):
        shared = queries.shape[1] // keys.shape[1]
        keys, values = (mx.repeat(part, shared, axis=1) for part in (keys, values))
        return attend(queries, keys, values, **options)

    monkeypatch.setattr(llama, "scaled_dot_product_attention", copying)


@pytest.mark.claim(id="5.1", falsifier=copy_keys_and_values_for_every_head)
def test_queries_outnumber_keys_and_values_as_the_config_says(subject, exhibit):
    """Several query heads share one key and one value head, so k_proj and v_proj are narrower."""
    call = first_call(subject)
    shapes = {"queries": call.queries.shape, "keys": call.keys.shape, "values": call.values.shape}
    exhibit.table(
        [[name, heads, width, heads * width] for name, (_, heads, _, width) in shapes.items()],
        columns=["", "heads", "head width", "projection width"],
        title="what attends, layer 0",
    )
    config = text_config(subject.config)
    expected = (config["num_attention_heads"], *[config["num_key_value_heads"]] * 2)
    heads = tuple(shape[1] for shape in shapes.values())

    says = exhibit.measured("heads of queries, keys, values", heads, should_be=expected)

    assert heads == expected, says


@pytest.mark.claim(id="5.2", falsifier=lift_the_mask)
def test_no_token_attends_to_a_later_token(trained, exhibit):
    """Rows are queries, columns are keys; later tokens lie right of the diagonal."""
    ids = tokens.prompt(trained.tokenizer, prompts.EXAMPLE)
    pieces = tokens.token_texts(trained.tokenizer, ids)
    maps = maps_of(trace(trained.model, ids))
    weights = [layer.round(4) for layer in maps]
    exhibit.heatmap(maps[0][0], rows=pieces, columns=pieces, title="layer 0, head 0")
    exhibit.add("attention", prompts.EXAMPLE, tokens=pieces, weights=weights)
    future = worst(float(np.triu(layer, k=1).max()) for layer in maps)

    says = exhibit.measured("largest weight on a later token", future, should_be=0)

    assert len(ids) >= 4, f"{pieces} leaves too little future to look at"
    assert future == 0, says


def maps_of(seen):
    """The maps, (heads, queries, keys), of the layers that attend; skips where none does."""
    return [layer for layer in seen.attention if layer is not None] or pytest.skip(seen.note)


def read_without_the_mask(monkeypatch, subject):
    lift_the_mask(monkeypatch)
    return {"subject": subject.replacing(case=replace(subject.case))}  # which holds no logits yet


@pytest.mark.claim(id="5.3", falsifier=read_without_the_mask)
def test_changing_later_tokens_changes_no_earlier_logit(subject, exhibit):
    """The causal mask without a look inside: earlier logits stay as they were."""
    half = len(IDS) // 2
    changed = IDS[:half] + [id_ + 1 for id_ in IDS[half:]]
    a, b = (Case(subject.model, ids).logits for ids in (IDS, changed))
    exhibit.bars(
        {str(i): float(change) for i, change in enumerate(np.abs(a - b).max(axis=-1))},
        title=f"tokens {half} to {len(IDS) - 1} were changed", axis="largest change of a logit",
    )  # fmt: skip

    hold_to_law(subject, forward.causality, exhibit)


def forget_to_normalise(monkeypatch):
    weights_of = attention.attention_weights

    def scaled(*arguments, **rest):
        weights, sinks = weights_of(*arguments, **rest)
        return 1.01 * weights, sinks

    monkeypatch.setattr(attention, "attention_weights", scaled)


@pytest.mark.claim(id="5.4", falsifier=forget_to_normalise)
def test_a_tokens_weights_sum_to_one(subject, exhibit):
    """Summed over the keys and the attention sink where the model has one; to float32 rounding."""
    seen = trace(subject.model, IDS, verify=False)
    apart = {
        f"layer {i}": float(np.abs(layer.sum(-1, dtype=np.float64) + sink_of(seen, i) - 1).max())
        for i, layer in enumerate(seen.attention)
        if layer is not None
    }
    missed = worst(apart.values()) if apart else pytest.skip(seen.note)
    exhibit.bars(apart, title="distance of a row's sum from one", axis="distance")
    allowed = len(IDS) * float(np.finfo(np.float32).eps)  # each of the weights rounds once

    says = exhibit.measured("largest distance from one", missed, f"at most {allowed:.1e}")

    assert missed <= allowed, says


def sink_of(seen, layer):
    """(heads, queries) weights of a layer's sink; 0 where it has none."""
    return 0 if seen.sinks[layer] is None else seen.sinks[layer]


def leave_out_the_scale(monkeypatch):
    weights_of = attention.attention_weights

    def unscaled(queries, keys, mask=None, scale=1.0, sinks=None, **rest):
        return weights_of(queries, keys, mask, 1.0, sinks, **rest)

    monkeypatch.setattr(attention, "attention_weights", unscaled)


@pytest.mark.claim(id="5.5", falsifier=leave_out_the_scale)
def test_the_maps_give_the_layers_own_attention_output(subject, exhibit):
    """A wrong map can pass every other claim about attention, but not this one."""
    layers = enumerate(attention_calls(subject.model, IDS))
    errors = {i: worst(map(reconstruction, calls)) for i, calls in layers if calls}
    exhibit.curve(
        list(errors), {"float32": list(errors.values())},
        title="map times values against the output",
        x_axis="layer", y_axis="relative difference",
    )  # fmt: skip

    hold_to_law(subject, laws_of_tracing.attention_is_reproduced, exhibit)


def reconstruction(call):
    weights, _ = attention.recompute_weights(call)
    return attention.reconstruction_error(weights, call.values, call.output)


def rotate_nothing(monkeypatch):
    monkeypatch.setattr(nn.RoPE, "__call__", lambda self, states, **_: states)


@pytest.mark.claim(id="5.6", falsifier=rotate_nothing)
def test_a_map_without_rope_norm_scale_or_mask_is_not_the_models(models, exhibit):
    """The shortcuts of published tools: each row still sums to one and looks plausible."""
    rows = []
    for name, parts in {"smollm2-135m": {"rope"}, "tiny-qwen3": {"rope", "q_norm"}}.items():
        block = models[name].model.layers[0].self_attn
        call = first_call(models[name])
        own, _ = attention.recompute_weights(call)  # (batch, heads, queries, keys)
        wrong = {f"without {part}": omitting(block, part, models[name]) for part in sorted(parts)}
        wrong["without the scale"] = replace(call, scale=1.0)
        wrong["without the mask"] = replace(call, mask=None)
        for omission, other in wrong.items():
            weights, _ = attention.recompute_weights(other)
            off = float(np.abs(weights - own).max())
            error = attention.reconstruction_error(weights, call.values, call.output)
            rows.append([name, omission, off, error])
    exhibit.table(
        rows, columns=["model", "map", "largest error of a weight", "of the layer's output"],
        title="what shortcuts cost, layer 0",
    )  # fmt: skip
    least = min(0 if np.isnan(error) else error for *_, error in rows)

    says = exhibit.measured("smallest relative error of the layer's output", least, "at least 0.01")

    assert least >= 0.01, says


def first_call(subject):
    """The first use of attention; skips where the model has none."""
    calls = [call for layer in attention_calls(subject.model, IDS) for call in layer]
    return calls[0] if calls else pytest.skip("no layer attends by softmax")


def omitting(block, part, subject):
    """The first layer's attention call when a part of it hands on what it is given."""
    parts = ("q_norm", "k_norm") if part == "q_norm" else (part,)
    kept = {name: getattr(block, name) for name in parts}
    try:
        for name in parts:
            setattr(block, name, lambda states, **_: states)
        return first_call(subject)
    finally:
        for name, module in kept.items():
            setattr(block, name, module)


def forget_the_offset(monkeypatch):
    rotate = nn.RoPE.__call__
    monkeypatch.setattr(nn.RoPE, "__call__", lambda self, x, offset=0: rotate(self, x, 0))


@pytest.mark.claim(id="5.7", falsifier=forget_the_offset)
def test_a_decode_step_attends_as_the_last_row_of_the_whole_map(subject, exhibit):
    """With a KV cache the last token is fed alone. A law first checks that the step's map is the
    model's own; it cannot tell whether the model itself is wrong."""
    own = laws_of_tracing.a_decode_step_is_reproduced(Case(subject.model, IDS))
    whole = trace(subject.model, IDS)
    cache = make_prompt_cache(subject.model)
    subject.model(mx.array([IDS[:-1]]), cache=cache)
    step = trace(subject.model, IDS[-1:], cache=cache)
    pairs = list(zip(maps_of(step), maps_of(whole), strict=True))
    apart = [float(np.abs(one[:, 0] - all_[:, -1]).max()) for one, all_ in pairs]
    exhibit.curve(
        list(range(len(apart))), {"last row": apart}, title="decode step against full pass",
        x_axis="layer", y_axis="largest difference of a weight",
    )  # fmt: skip
    allowed = tolerances.reordered(mx.float32, layers=len(apart))

    missed = worst(apart)

    says = exhibit.measured("largest difference of a weight", missed, f"at most {allowed:.1e}")

    assert own.holds, own.says
    assert pairs[0][0].shape[1:] == (1, len(IDS)), (
        f"shape of the map = {pairs[0][0].shape}, but should be (…, 1, {len(IDS)})"
    )
    assert missed <= allowed, says


def leave_a_trace_behind(monkeypatch):
    stream = tracing.stream
    monkeypatch.setattr(tracing, "stream", lambda *arguments: stream(*arguments) * (1 + 1e-6))


@pytest.mark.claim(id="5.8", falsifier=leave_a_trace_behind)
def test_tracing_changes_no_bit_of_the_logits(subject, exhibit):
    """A trace observes the model's own pass: its logits equal those of a plain pass."""
    plain, traced = Case(subject.model, IDS).logits, trace(subject.model, IDS).logits
    exhibit.table(
        [[*traced.shape, int((traced != plain).sum())]],
        columns=["tokens", "vocabulary", "logits that differ"], title="traced and plain",
    )  # fmt: skip

    hold_to_law(subject, laws_of_tracing.tracing_changes_nothing, exhibit)
