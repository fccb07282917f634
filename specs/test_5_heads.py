"""Experiment 5: traits of heads in a trained model that a random model lacks."""

import mlx.core as mx
import numpy as np
import pytest

from fixtures.doubles.tampered import ModelInNeedOfBos, TamperedModel, TokenizerWithBos
from llm_spec.ledger.evidence import Exhibits
from llm_spec.model import tokens
from llm_spec.model.config import text_config
from llm_spec.observe import trace as tracing
from llm_spec.observe.trace import trace
from llm_spec.quality import likelihood

REPETITION = "The cat sat on the mat. The cat sat on the"
HALF = 20  # length of a random sequence that is then repeated


def repeated_ids(subject):
    """Random ids, twice over: nothing but the first half can predict the second. Before them
    stands what the tokenizer puts before every text."""
    size = text_config(subject.config)["vocab_size"]
    if subject.entry.has_tokenizer:  # rows beyond its ids were never trained
        size = min(size, 1 + max(subject.tokenizer.get_vocab().values()))
    ids = np.random.default_rng(0).integers(20, size, HALF).tolist()
    start = tokens.start(subject.tokenizer) if subject.entry.has_tokenizer else []
    return [*start, *ids, *ids]


def scores(seen):
    """(layers, heads) each: mean weight on the first token, on the previous one, and on the one
    that followed the same token half a sequence ago. Skips where no layer attends."""
    layers = [layer for layer in seen.attention if layer is not None]
    maps = np.stack(layers or pytest.skip(seen.note))  # (layers, heads, queries, keys)
    n = maps.shape[-1]
    rows = np.arange(n - HALF, n)
    return {
        "sink": maps[:, :, rows, 0].mean(-1),
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
        table = scores(trace(subject.model, repeated_ids(subject)))
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
    """It attends to the previous token, whatever that token is."""
    where, strongest, by_chance = both(trained, models, "previous", exhibit)

    says = exhibit.measured(
        f"mean weight on the previous token, {where}",
        strongest,
        f"over 0.5 ({by_chance:.2f} random)",
    )

    assert by_chance < 0.3, f"by chance = {by_chance:.2f}, but should be below 0.3 to tell anything"
    assert strongest > 0.5, says


def show_repetition(subject, exhibit):
    """All maps of a text that repeats itself, in which a reader can see what was measured."""
    ids = tokens.prompt(subject.tokenizer, REPETITION)
    layers = trace(subject.model, ids).attention
    exhibit.add(
        "attention", REPETITION, tokens=tokens.token_texts(subject.tokenizer, ids),
        weights=[None if layer is None else layer.round(3) for layer in layers],
    )  # fmt: skip


@pytest.mark.claim(id="5.12", falsifier=untrain)
def test_a_trained_model_has_an_induction_head(trained, models, exhibit):
    """It finds the last occurrence of the token and attends to the token that followed it."""
    where, strongest, by_chance = both(trained, models, "induction", exhibit)
    if trained.entry.has_tokenizer:
        show_repetition(trained, exhibit)

    says = exhibit.measured(
        f"mean weight on the token that followed before, {where}", strongest,
        f"over 0.5 ({by_chance:.2f} random)",
    )  # fmt: skip

    assert by_chance < 0.3, f"by chance = {by_chance:.2f}, but should be below 0.3 to tell anything"
    assert strongest > 0.5, says


@pytest.mark.claim(id="5.13", falsifier=untrain)
def test_a_repeated_random_sequence_is_predicted_the_second_time(trained, exhibit):
    """Loss per token in nats: what induction heads are good for. A random model gains nothing."""
    losses = losses_of(trained)
    exhibit.curve(
        list(range(1, len(losses) + 1)), {"loss": losses.tolist()},
        title="a random sequence, twice", x_axis="token", y_axis="nats",
    )  # fmt: skip
    gain = second_over_first(losses)

    says = exhibit.measured("second loss over first loss", gain, should_be="below 0.5")

    assert gain < 0.5, says


def losses_of(subject):
    """(tokens - 1,) nats that each token of the repeated sequence costs, after those before it."""
    ids = repeated_ids(subject)
    return -likelihood.token_logprobs(subject.model, ids)


def second_over_first(losses):
    """Mean loss of the second half over that of the first. Each half's first token is left out:
    nothing predicts it."""
    return losses[-(HALF - 1) :].mean() / losses[-(2 * HALF - 1) : -HALF].mean()


BOS = 1  # one of SmolLM2's special tokens, which its tokenizer does not add


def start_with_nothing(monkeypatch):
    monkeypatch.setattr(tokens, "start", lambda tokenizer: [])


@pytest.mark.claim(id="5.60", falsifier=start_with_nothing)
def test_prompts_start_with_the_bos_that_the_tokenizer_adds(embedded, exhibit):
    """A model that predicts nothing without its BOS, beside the model that it is made from."""
    in_need = embedded.replacing(
        model=ModelInNeedOfBos(embedded.model, BOS),
        tokenizer=TokenizerWithBos(embedded.tokenizer, BOS),
    )
    rows = [
        [name, *starts(subject), second_over_first(losses_of(subject))]
        for name, subject in {"without a BOS": embedded, "with one": in_need}.items()
    ]
    exhibit.table(
        rows, columns=["tokenizer", "a prompt's ids", "the random ids", "second loss over first"],
        title="how prompts start",
    )  # fmt: skip
    gain = rows[1][-1]

    says = exhibit.measured("second loss over first loss, with a BOS", gain, "below 0.5")

    assert rows[0][1] == tokens.encode(embedded.tokenizer, "Rust is a"), (
        f"prompt without a BOS = {rows[0]}, but should be the text alone"
    )
    assert gain < 0.5, says
    assert rows[1][1] == [BOS, *rows[0][1]], (
        f"prompt with a BOS = {rows[1][1]}, but should be a BOS and the text"
    )


def starts(subject):
    """The ids of a prompt, and how the random ids begin."""
    return tokens.prompt(subject.tokenizer, "Rust is a"), repeated_ids(subject)[:3]


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
    """The logit lens: lm_head reads each layer's state as if it were the last."""
    prompt = "The capital of France is"
    ids = tokens.prompt(trained.tokenizer, prompt)
    seen = trace(trained.model, ids)
    answer = trained.tokenizer.decode([int(seen.logits[-1].argmax())])
    if answer.strip() != "Paris":
        pytest.skip(f"{trained.name} goes on with {answer!r}, not with Paris")
    grid = [likeliest(trained, seen, position) for position in range(len(ids))]
    exhibit.add(
        "lens", f"{prompt} …", prompt=prompt, tokens=tokens.token_texts(trained.tokenizer, ids),
        layers=[f"layer {layer}" for layer in range(len(grid[0]))], top=list(zip(*grid)),
    )  # fmt: skip
    tops = [cell["token"] for cell in grid[-1]]
    first = tops.index(answer)  # the last layer says it: the lens is held to the model's logits
    half = len(tops) // 2

    says = exhibit.measured("first layer with Paris on top", first, f"{half} to {len(tops) - 1}")

    assert half <= first, says


SKIPPED = pytest.skip.Exception


def refute_any_other_answer(monkeypatch):
    def refute(reason):
        raise AssertionError(reason)

    monkeypatch.setattr(pytest, "skip", refute)


@pytest.mark.claim(id="5.61", falsifier=refute_any_other_answer)
def test_a_model_that_answers_otherwise_is_told_of_and_not_refuted(embedded, exhibit):
    """SmolLM2 with the logits of " Paris" and " the" exchanged, as a base model might go on."""
    paris, the = (tokens.encode(embedded.tokenizer, text)[0] for text in (" Paris", " the"))

    def exchanged(logits):
        order = mx.arange(logits.shape[-1])
        order[paris], order[the] = the, paris
        return logits[..., order]

    base = embedded.replacing(model=TamperedModel(embedded.model, exchanged))
    verdicts = {"as it is": verdict_on(embedded), "a base model": verdict_on(base)}
    exhibit.table(list(verdicts.items()), columns=["model", "verdict"], title="where Paris appears")

    said = verdicts["a base model"]

    says = exhibit.measured("verdict on the base model", said, should_be="not run: …")

    assert verdicts["as it is"] == "verified", (
        f"verdict on the unchanged model = {verdicts['as it is']}"
    )
    assert said.startswith("not run: smollm2-135m goes on with ' the'"), says


def verdict_on(subject):
    """The verdict on a model that is asked for the capital of France."""
    silent = Exhibits(lambda record: None, subject.name, pytest.skip)
    try:
        test_the_answer_becomes_the_top_token_only_late(subject, silent)
    except SKIPPED as reason:
        return f"not run: {reason}"
    except AssertionError as failure:
        return f"refuted: {failure}"
    return "verified"
