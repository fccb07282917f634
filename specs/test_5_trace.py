"""Experiment 5: what the instrument refuses, what it says of attention that it cannot show, and
that it leaves nothing behind."""

from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.models.cache import KVCache, make_prompt_cache

from fixtures.synthetic.architectures import build_architecture
from fixtures.synthetic.tiny import build_tiny
from llm_spec.numerics import distances, tolerances
from llm_spec.observe import attention, head_statistics, hooks, inputs
from llm_spec.observe import trace as tracing
from llm_spec.observe.head_statistics import attention_statistics
from llm_spec.observe.trace import TraceError, attention_calls, trace

IDS = [7, 203, 7, 19, 5, 211, 42, 8]
LAYER = 1  # of three: what is wrong there must not be blamed on its neighbours


def refusal(look, *arguments):
    """The message of an instrument that refuses, or None."""
    try:
        look(*arguments)
    except TraceError as error:
        return str(error)
    return None


def leave_the_patches(monkeypatch):
    @contextmanager
    def patched_for_good(plan):
        for owner, name, replacement in plan:
            monkeypatch.setattr(owner, name, replacement)
        yield

    monkeypatch.setattr(hooks, "patched", patched_for_good)


@pytest.mark.claim(id="5.30", falsifier=leave_the_patches)
def test_a_pass_that_fails_or_is_interrupted_leaves_nothing_patched(exhibit):
    """Functions of MLX, of the model's classes and of its cache, before and after."""
    model, _ = build_tiny("tiny-llama")
    owners = [mx, mx.fast, mx.array, KVCache, *{type(module) for module in model.modules()}]
    changed = {}
    for error in (ValueError("a layer failed"), KeyboardInterrupt()):
        originals = [(owner, dict(vars(owner))) for owner in owners]
        model.layers[LAYER].mlp = failing = Failing(error, lambda: not_in(originals))  # noqa: B023
        with pytest.raises(type(error)):
            trace(model, IDS, cache=make_prompt_cache(model))
        changed[type(error).__name__] = (failing.seen, not_in(originals))
    exhibit.table(
        [[name, *counts] for name, counts in changed.items()],
        columns=["what ended the pass", "patched during it", "patched after it"],
        title="functions that are not the originals",
    )  # fmt: skip
    during, after = zip(*changed.values(), strict=True)

    says = exhibit.measured("functions still patched", list(after), should_be=[0, 0])

    assert min(during) > 0, "functions patched during the pass = 0, but should be some"
    assert after == (0, 0), says


def not_in(originals):
    """How many functions of the owners are others now."""
    return sum(vars(owner).get(n) is not f for owner, parts in originals for n, f in parts.items())


class Failing(nn.Module):
    """A part of a layer that looks around, and then ends the pass."""

    def __init__(self, error, look):
        super().__init__()
        self._error, self._look = error, look

    def __call__(self, states):
        self.seen = self._look()
        raise self._error


def accept_any_map(monkeypatch):
    for form in (tracing, head_statistics):
        monkeypatch.setattr(form, "accept", lambda *_: None)


@pytest.mark.claim(id="5.31", falsifier=accept_any_map)
def test_a_wrong_map_is_refused_by_layer_and_by_how_much(exhibit, monkeypatch):
    """One layer's weights are moved by one key: rows still sum to one, and look plausible."""
    model, _ = build_tiny("tiny-llama")
    weigh = attention.recompute_weights

    def moved(call, *arguments, **options):
        weights, sinks = weigh(call, *arguments, **options)
        return (np.roll(weights, 1, axis=-1) if call.layer == LAYER else weights), sinks

    (call,) = attention_calls(model, IDS)[LAYER]
    error = attention.reconstruction_error(moved(call)[0], call.values, call.output)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "recompute_weights", moved)
        said = [refusal(look, model, IDS) for look in (trace, attention_statistics)]
    exhibit.table(
        [["trace", said[0]], ["statistics", said[1]]], columns=["form", "said"], title="a wrong map"
    )
    expected = f"layer {LAYER} (model.layers.{LAYER}.self_attn): the map misses"

    says = exhibit.measured("message", said, should_be=f"{expected} … by {error:.2g}")

    assert refusal(trace, model, IDS) is None, "the right maps are refused, but should be given"
    assert all(text and text.startswith(expected) and f"{error:.2g}" in text for text in said), says


def forget_the_context(monkeypatch):
    monkeypatch.setattr(inputs, "context_length", lambda model: None)


@pytest.mark.claim(id="5.32", falsifier=forget_the_context)
def test_input_that_cannot_be_traced_is_refused_in_one_sentence(exhibit):
    """Each bad input, and what is said of it. One token alone can be traced."""
    model, config = build_tiny("tiny-llama")
    rows, longest = config["vocab_size"], config["max_position_embeddings"]
    cache = make_prompt_cache(model)
    model(mx.array([IDS]), cache=cache)
    cases = {
        "no token": ([], None, "the prompt is empty"),
        "an id past the vocabulary": ([7, rows], None, f"token id {rows} is outside"),
        "a negative id": ([7, -1], None, "token id -1 is outside"),
        "a batch": ([IDS, IDS], None, "one flat sequence of integers"),
        "numbers that are no ids": ([0.5], None, "one flat sequence of integers"),
        "a prompt past the context": ([7] * (longest + 1), None, f"context has {longest}"),
        "a cache that leaves no room": ([7] * (longest - 7), cache, "8 in the cache"),
    }
    said = {name: refusal(trace, model, ids, cache) for name, (ids, cache, _) in cases.items()}
    exhibit.table([list(row) for row in said.items()], columns=["input", "said"], title="refusals")
    wrong = [name for name, (*_, part) in cases.items() if part not in (said[name] or "")]
    one = trace(model, IDS[:1])

    says = exhibit.measured("inputs without the right refusal", wrong, should_be=[])

    assert not wrong, says
    assert [layer.tolist() for layer in one.attention] == [[[[1.0]]] * 4] * 3, (
        "attention of a single token is not 1, but should be"
    )
    assert cache[0].offset == len(IDS), "a refused prompt must not be fed to the cache"


def take_silence_for_blindness(monkeypatch):
    every = dict.fromkeys(range(4), "keeps keys and values")
    monkeypatch.setattr(tracing, "unseen_layers", lambda *_: every)


@pytest.mark.claim(id="5.33", falsifier=take_silence_for_blindness)
def test_a_model_without_attention_shows_its_states_and_says_so(exhibit):
    """Mamba: the trace holds every layer's output, and a sentence instead of maps."""
    model, _ = build_architecture("mamba")
    seen = trace(model, IDS)
    heads = attention_statistics(model, IDS).layers
    exhibit.text(str(seen.note), title="what is said instead of maps")
    shown = [part for part in (*seen.attention, *heads) if part is not None]

    says = exhibit.measured("note", seen.note, should_be="no attention to show: …")

    assert [state.shape[0] for state in seen.hidden_states] == [len(IDS)] * len(model.layers)
    assert len({state.tobytes() for state in seen.hidden_states}) == len(model.layers)
    assert not shown, f"maps of a model without attention = {len(shown)}, but should be 0"
    assert (seen.note or "").startswith("no attention to show"), says


def take_infinity_for_a_number(monkeypatch):
    monkeypatch.setattr(np, "isfinite", lambda array: ~np.isnan(array))


@pytest.mark.claim(id="5.34", falsifier=take_infinity_for_a_number)
def test_weights_that_are_not_numbers_are_found_and_counted(exhibit):
    """Three NaN in a value projection, infinity in a norm, NaN among a quantised layer's scales."""
    model, _ = build_tiny("tiny-llama")
    block = model.layers[LAYER]
    nn.quantize(model.layers[2], group_size=32)
    broken = {
        "v_proj": (block.self_attn.v_proj, "weight", [float("nan")] * 3),
        "norm": (block.post_attention_layernorm, "weight", [float("inf")]),
        "scales": (model.layers[2].mlp.down_proj, "scales", [float("nan")] * 2),
    }
    for module, name, values in broken.values():
        flat = module[name].reshape(-1)
        flat[1 : 1 + len(values)] = mx.array(values, flat.dtype)
        module[name] = flat.reshape(module[name].shape)
    found = tracing.locate_non_finite(model)
    exhibit.table(
        [[each.module, each.tensor, each.count, each.size] for each in found],
        columns=["module", "tensor", "not finite", "of"], title="located",
    )  # fmt: skip
    expected = {
        (f"model.layers.{LAYER}.self_attn.v_proj", "weight", 3),
        (f"model.layers.{LAYER}.post_attention_layernorm", "weight", 1),
        ("model.layers.2.mlp.down_proj", "scales", 2),
    }
    located = {(each.module, each.tensor, each.count) for each in found}

    says = exhibit.measured("located", sorted(located), should_be=sorted(expected))

    assert tracing.locate_non_finite(build_tiny("tiny-llama")[0]) == [], "a sound model is blamed"
    assert located == expected, says
    said = refusal(trace, model, IDS)
    assert said is not None, "a map of NaN is handed out, but should be refused"
    assert f"layer {LAYER}" in said, said
    assert str(found[0]) in said, said


def take_blindness_for_silence(monkeypatch):
    for form in (tracing, head_statistics):
        monkeypatch.setattr(form, "unseen_layers", lambda *_: {})


@pytest.mark.claim(id="5.35", falsifier=take_blindness_for_silence)
def test_attention_that_cannot_be_watched_is_said_and_not_guessed(exhibit, monkeypatch):
    """One layer computes attention by einsum, after a softmax that can be observed or not."""
    model, _ = build_tiny("tiny-llama")
    expected = trace(model, IDS)
    given, unseen = {}, {}
    for softmax, why in {
        by_softmax: f"weighs by a softmax in model.layers.{LAYER}.self_attn",
        by_exponentials: "keeps keys and values",
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(llama, "scaled_dot_product_attention", by_hand(softmax))
            seen = trace(model, IDS)
        with monkeypatch.context() as patch:
            patch.setattr(llama, "scaled_dot_product_attention", by_hand(softmax))
            counted = attention_statistics(model, IDS)
        given[why] = [seen.attention[LAYER], counted.layers[LAYER]]
        unseen[why] = [seen.unseen, counted.unseen]
        missed = distances.distance(seen.logits, expected.logits)
        assert missed <= tolerances.reordered(mx.float32, layers=3), (
            f"difference from the logits worked out by hand = {missed:.2g}"
        )
        assert [maps is None for maps in seen.attention] == [False, True, False]
    exhibit.table(
        [[why, str(said)] for why, (said, _) in unseen.items()], columns=["", "unseen"],
        title="layers that attend, but not in a way that can be watched",
    )  # fmt: skip
    silent = [
        why
        for why, forms in unseen.items()
        if any(list(said) != [LAYER] or not said[LAYER].startswith(why) for said in forms)
    ]

    says = exhibit.measured("unobserved layers without a report", silent, should_be=[])

    assert not silent, says
    assert not any(part is not None for parts in given.values() for part in parts), (
        "a map was returned for a layer that cannot be observed"
    )


def by_softmax(scores, axis):
    return mx.softmax(scores, axis)  # looked up at the call, for it is watched by name


def by_exponentials(scores, axis):
    weights = mx.exp(scores - scores.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def by_hand(softmax):
    """mlx-lm's attention, but for the call of one layer, which is written out."""
    fused, calls = llama.scaled_dot_product_attention, []

    def attend(queries, keys, values, cache, scale, mask, **options):
        calls.append(None)
        if len(calls) != LAYER + 1:
            return fused(queries, keys, values, cache=cache, scale=scale, mask=mask, **options)
        shared = queries.shape[1] // keys.shape[1]
        keys, values = (mx.repeat(part, shared, axis=1) for part in (keys, values))
        scores = scale * mx.einsum("bhqd,bhkd->bhqk", queries, keys)
        future = mx.triu(mx.full(scores.shape[-2:], -mx.inf), k=1)
        return mx.einsum("bhqk,bhkd->bhqd", softmax(scores + future, axis=-1), values)

    return attend
