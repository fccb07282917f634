"""Experiment 5: what heads do in a trained model, and do not do in a random one."""

import mlx.core as mx
import numpy as np
import pytest

from llm_spec.model import tokens
from llm_spec.observe import trace as tracing
from llm_spec.observe.trace import trace

HALF = 20  # length of a random sequence that is then repeated


def repeated_ids(subject):
    """Random ids, twice over: nothing but the first half can predict the second."""
    size = subject.config["vocab_size"]
    ids = np.random.default_rng(0).integers(20, size, HALF).tolist()
    return [*ids, *ids]


def scores(layers):
    """(layers, heads) each: mean weight on the first token, on the previous one, and on the one
    that followed the same token half a sequence ago."""
    maps = np.stack(layers)  # (layers, heads, queries, keys)
    n = maps.shape[-1]
    rows = np.arange(HALF, n)
    return {
        "sink": maps[:, :, HALF:, 0].mean(-1),
        "previous": maps[:, :, rows, rows - 1].mean(-1),
        "induction": maps[:, :, rows, rows - HALF + 1].mean(-1),
    }


def best(table):
    layer, head = np.unravel_index(np.argmax(table), table.shape)
    return f"layer {layer}, head {head}", float(table[layer, head])


def both(trained, models, kind, exhibit):
    """The strongest head of a kind in the trained model and in a random one."""
    found = {}
    for subject in (trained, models["tiny-llama"]):
        table = scores(trace(subject.model, repeated_ids(subject)).attention)
        found[subject.name] = best(table[kind])
        if subject is trained:
            names = [f"head {i}" for i in range(table[kind].shape[1])]
            exhibit.heatmap(
                table[kind], rows=[f"layer {i}" for i in range(len(table[kind]))], columns=names,
                title=f"{kind} score of every head", row_axis="layer", column_axis="head",
                unit="mean weight",
            )  # fmt: skip
            heads = {name: values.round(4) for name, values in table.items()}
            layers, n_heads = table[kind].shape
            exhibit.add("heads", "heads at a glance", layers=layers, heads=n_heads, scores=heads)
    (where, strongest), (_, by_chance) = found.values()
    return where, strongest, by_chance


def untrain(trained, models):
    return {"trained": models["tiny-qwen3"]}


@pytest.mark.claim(id="5.10", falsifier=untrain)
def test_trained_heads_park_their_attention_on_the_first_token(trained, models, exhibit):
    """A head with nothing to say attends to the first token: an attention sink."""
    where, strongest, by_chance = both(trained, models, "sink", exhibit)

    says = exhibit.measured(
        f"mean weight on the first token, {where}", strongest, f"over 0.8 ({by_chance:.2f} random)"
    )

    assert by_chance < 0.5, f"by chance = {by_chance:.2f}, but should be below 0.5 to tell anything"
    assert strongest > 0.8, says


@pytest.mark.claim(id="5.11", falsifier=untrain)
def test_a_trained_model_has_a_previous_token_head(trained, models, exhibit):
    """It attends to the token just before, whatever that is."""
    where, strongest, by_chance = both(trained, models, "previous", exhibit)

    says = exhibit.measured(
        f"mean weight on the token before, {where}", strongest, f"over 0.5 ({by_chance:.2f} random)"
    )

    assert by_chance < 0.3, f"by chance = {by_chance:.2f}, but should be below 0.3 to tell anything"
    assert strongest > 0.5, says


@pytest.mark.claim(id="5.12", falsifier=untrain)
def test_a_trained_model_has_an_induction_head(trained, models, exhibit):
    """It finds the last place where this token stood and attends to what came next there."""
    where, strongest, by_chance = both(trained, models, "induction", exhibit)

    says = exhibit.measured(
        f"mean weight on what followed before, {where}", strongest,
        f"over 0.5 ({by_chance:.2f} random)",
    )  # fmt: skip

    assert by_chance < 0.3, f"by chance = {by_chance:.2f}, but should be below 0.3 to tell anything"
    assert strongest > 0.5, says


@pytest.mark.claim(id="5.13", falsifier=untrain)
def test_a_repeated_random_sequence_is_predicted_the_second_time(trained, exhibit):
    """Loss a token: what induction heads are good for. A random model gains nothing."""
    ids = repeated_ids(trained)
    logits = trained.model(mx.array([ids]))[0].astype(mx.float32)  # (tokens, vocabulary)
    chosen = mx.take_along_axis(logits[:-1], mx.array(ids[1:])[:, None], axis=-1)[:, 0]
    losses = np.array(mx.logsumexp(logits[:-1], axis=-1) - chosen, dtype=np.float64)
    exhibit.curve(
        list(range(1, len(ids))), {"loss": losses.tolist()}, title="a random sequence, twice",
        x_axis="token", y_axis="nats",
    )  # fmt: skip
    first, second = losses[: HALF - 1].mean(), losses[HALF:].mean()

    says = exhibit.measured("second loss over the first", second / first, should_be="below 0.5")

    assert second < first / 2, says


def read_the_layers_backwards(monkeypatch):
    logit_lens = tracing.logit_lens
    monkeypatch.setattr(tracing, "logit_lens", lambda *given: logit_lens(*given)[::-1].copy())


def likeliest(subject, seen, position):
    """The token that each layer would predict there, and how likely it would be."""
    lens = tracing.logit_lens(subject.model, seen, position)  # (layers, vocabulary)
    shares = mx.softmax(mx.array(lens), axis=-1).max(-1).tolist()
    pieces = tokens.token_texts(subject.tokenizer, lens.argmax(-1).tolist())
    return [{"token": t, "probability": p} for t, p in zip(pieces, shares, strict=True)]


@pytest.mark.claim(id="5.14", falsifier=read_the_layers_backwards)
def test_the_answer_becomes_the_top_token_only_late(trained, exhibit):
    """The head reads each layer's state as if it were the last: Paris wins near the end."""
    prompt = "The capital of France is"
    ids = tokens.encode(trained.tokenizer, prompt)
    seen = trace(trained.model, ids)
    grid = [likeliest(trained, seen, position) for position in range(len(ids))]
    exhibit.add(
        "lens", f"{prompt} …", prompt=prompt, tokens=tokens.token_texts(trained.tokenizer, ids),
        layers=[f"layer {layer}" for layer in range(len(grid[0]))], top=list(zip(*grid)),
    )  # fmt: skip
    tops = [cell["token"] for cell in grid[-1]]
    first = tops.index(" Paris") if " Paris" in tops else len(tops)
    half = len(tops) // 2

    says = exhibit.measured("first layer that says Paris", first, f"{half} to {len(tops) - 1}")

    assert half <= first < len(tops), says
