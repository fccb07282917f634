"""Experiment 3: token embeddings, and from which layer on context changes hidden states."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama

from fixtures.texts import prompts
from llm_spec.model import accounting, tokens
from llm_spec.numerics import distances
from llm_spec.observe.trace import trace

WORD_FIRST = (prompts.EXAMPLE, prompts.OTHER_CONTEXT)
WORD_LAST = ("I wrote it all in the language Rust", "I scrubbed at the old brown Rust")
UNRELATED = "Zebras graze at dawn on the plain"
IDS = [7, 203, 7, 19, 5, 211, 42]  # for models without a tokenizer; one id twice on purpose


def embedding_of(model):
    """The module that holds the embedding table: the first of its kind."""
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    return next(module for _, module in model.named_modules() if isinstance(module, kinds))


def rows(module, token_ids, dtype):
    """(tokens, width): the table's rows as stored, unpacked by hand in `dtype` where they are
    packed."""
    ids = mx.array(list(token_ids))
    if not isinstance(module, nn.QuantizedEmbedding):
        return np.array(module.weight[ids].astype(mx.float32))
    scales, biases = (part[ids].astype(dtype) for part in (module.scales, module.biases))
    how = {"group_size": module.group_size, "bits": module.bits}
    return np.array(mx.dequantize(module.weight[ids], scales, biases, **how).astype(mx.float32))


def computed_in(model):
    """The number format of a model's embeddings: a GPU unpacks them in that of their scales."""
    table = embedding_of(model)
    return table.get("scales", table.weight).dtype


def replace_look_ups(monkeypatch, change):
    """Both kinds of table look up `change(look_up, module, ids)` from here on."""
    for kind in (nn.Embedding, nn.QuantizedEmbedding):
        look_up = kind.__call__
        monkeypatch.setattr(kind, "__call__", lambda self, ids, f=look_up: change(f, self, ids))


def look_up_the_next_row(monkeypatch):
    replace_look_ups(monkeypatch, lambda look_up, module, ids: look_up(module, ids + 1))


@pytest.mark.claim(id="3.1", falsifier=look_up_the_next_row)
def test_looking_a_token_up_gives_its_row_of_the_table(subject, exhibit):
    """One vector per token, bit-identical; the first ten numbers of each are shown."""
    ids, names = IDS, [f"id {id_}" for id_ in IDS]
    if subject.entry.has_tokenizer:
        ids = tokens.prompt(subject.tokenizer, prompts.EXAMPLE)
        names = tokens.token_texts(subject.tokenizer, ids)
    dtype = computed_in(subject.model)
    expected = rows(embedding_of(subject.packed), ids, dtype)  # (tokens, width)
    seen = trace(subject.model, ids).embeddings
    exhibit.heatmap(
        seen[:, :10], rows=names, columns=[str(i) for i in range(10)],
        title="the first ten numbers of each embedding",
        row_axis="token", column_axis="dimension", unit="activation",
    )  # fmt: skip
    assert seen.shape == (len(ids), subject.config["hidden_size"]), (
        f"shape of the embeddings = {seen.shape}"
    )
    difference = np.abs(seen - expected).max()

    says = exhibit.measured("largest difference from the row", difference, should_be=0)

    assert difference == 0 < np.abs(expected).max(), says


def keep_it_unpacked(declared):
    width = declared.config["hidden_size"]
    return {"declared": declared.replacing(packed=nn.Embedding(8, width))}


@pytest.mark.claim(id="3.2", falsifier=keep_it_unpacked)
def test_the_table_has_a_row_a_token_and_is_stored_as_packed(declared, exhibit):
    """`.weight.shape` prints the stored shape: eight 4-bit numbers in each 32-bit word."""
    module = embedding_of(declared.packed)
    stored = module.weight.shape
    logical = accounting.logical_shape(module, "weight", module.weight)
    bits = getattr(module, "bits", 32)
    exhibit.table(
        [["logical", logical, 8 * module.weight.nbytes / np.prod(logical)], ["stored", stored, 32]],
        columns=["shape", "rows × width", "bits per number"],
        title="embedding table",
    )
    size = declared.facts["vocab_rows"], declared.facts["hidden_size"]
    expected = (*size, size[0], size[1] * bits // 32)

    says = exhibit.measured("logical and stored shape", (*logical, *stored), should_be=expected)

    assert (*logical, *stored) == expected, says


def let_the_length_leak_in(monkeypatch):
    replace_look_ups(
        monkeypatch, lambda look_up, module, ids: look_up(module, ids) * (1 + 1e-3 * ids.sum())
    )


@pytest.mark.claim(id="3.3", falsifier=let_the_length_leak_in)
def test_a_word_has_the_same_embedding_in_every_context(trained, exhibit):
    """The sum of absolute differences is exactly 0; for a different word it is not."""
    word = len(tokens.encode(trained.tokenizer, "Rust"))
    ids = [tokens.encode(trained.tokenizer, text) for text in (*WORD_FIRST, UNRELATED)]
    language, iron, other = (trace(trained.model, i).embeddings[:word] for i in ids)
    same, different = (float(np.abs(language - seen).sum()) for seen in (iron, other))
    exhibit.table(
        [[WORD_FIRST[1], same], [UNRELATED, different]],
        columns=[f"“{WORD_FIRST[0]}” against", "sum of absolute differences"],
        title="embeddings of the first word",
    )

    says = exhibit.measured("difference of Rust in two contexts", same, should_be=0)

    assert different > 0, "a different word differs by 0, but should differ"
    assert same == 0, says


def lift_the_mask(monkeypatch):
    monkeypatch.setattr(llama, "create_attention_mask", lambda *_, **__: None)


@pytest.mark.claim(id="3.4", falsifier=lift_the_mask)
def test_what_follows_a_word_never_changes_its_state(trained, exhibit):
    """Rust is the first word: no layer can tell the language from the corrosion there."""
    _, apart, later = parting(trained, WORD_FIRST, position=0)
    exhibit.curve(
        list(range(len(apart))), {"at the word": apart, "at the last token": later},
        title="hidden state of Rust before its context", x_axis="layer (0 = embedding)",
        y_axis="distance / norm",
    )  # fmt: skip

    largest = distances.worst(apart)

    says = exhibit.measured("largest distance after any layer", largest, should_be=0)

    assert min(later[1:]) > 0, "the last tokens have equal states, but should differ"
    assert largest == 0, says


def look_only_at_yourself(monkeypatch):
    def diagonal(h, *_, **__):
        return mx.eye(h.shape[1], dtype=mx.bool_)

    monkeypatch.setattr(llama, "create_attention_mask", diagonal)


@pytest.mark.claim(id="3.5", falsifier=look_only_at_yourself)
def test_what_precedes_a_word_changes_its_state_layer_by_layer(trained, exhibit):
    """Rust is the last word: equal embeddings, different after layer 1, further apart later."""
    _, apart, _ = parting(trained, WORD_LAST, position=-1)
    exhibit.curve(
        list(range(len(apart))), {"at the word": apart},
        title="hidden state of Rust after its context", x_axis="layer (0 = embedding)",
        y_axis="distance / norm",
    )  # fmt: skip
    path = apart[0], apart[1], np.max(apart)

    says = exhibit.measured(
        "distance of the embeddings, after layer 1, largest",
        ", ".join(f"{distance:.3g}" for distance in path),
        should_be="0, then rising",
    )

    assert 0 == path[0] < path[1] < path[2], says


def parting(subject, texts, position):
    """Distances relative to the norm: at one position and at the last, embedding first.

    Both texts are cut to one length, so that equal states are equal to the bit.
    """
    ids = [tokens.encode(subject.tokenizer, text) for text in texts]
    length = min(map(len, ids))
    cut = [i[:length] if position == 0 else i[-length:] for i in ids]
    assert cut[0] != cut[1], f"{cut} are one text, but should differ in context"
    assert cut[0][position] == cut[1][position], f"{cut} should share their word"
    runs = [trace(subject.model, i) for i in cut]
    layers = zip(*([run.embeddings, *run.hidden_states] for run in runs), strict=True)
    pairs = [(relative(a[position], b[position]), relative(a[-1], b[-1])) for a, b in layers]
    return subject.tokenizer.decode([cut[0][position]]), *map(list, zip(*pairs, strict=True))


def relative(a, b):
    """Distance over norm: activations grow by orders of magnitude from layer to layer."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def shift_the_table(embedded):
    ids = range(embedded.facts["vocab_rows"])
    table = np.roll(rows(embedding_of(embedded.packed), ids, mx.float32), 1, 0)
    shifted = nn.Embedding(8, 8)
    shifted.weight = mx.array(table)
    return {"embedded": embedded.replacing(packed=shifted)}


@pytest.mark.claim(id="3.6", falsifier=shift_the_table)
def test_the_nearest_neighbours_of_a_word_are_the_recorded_ones(embedded, exhibit, snapshot):
    """By cosine: spellings of the same word come first, then words of similar use."""
    table = rows(embedding_of(embedded.packed), range(embedded.facts["vocab_rows"]), mx.float32)
    table /= np.linalg.norm(table, axis=-1, keepdims=True) + 1e-9  # (tokens, width)
    neighbours = {}
    for word in (" king", " Paris", " happy", " Monday"):
        [id_] = tokens.encode(embedded.tokenizer, word)
        cosine = table @ table[id_]  # (tokens,)
        nearest = [int(i) for i in np.argsort(-cosine)[1:6]]
        neighbours[word] = tokens.token_texts(embedded.tokenizer, nearest)
        exhibit.bars(
            dict(zip(neighbours[word], cosine[nearest].tolist(), strict=True)),
            title=f"nearest to “{word}”", axis="cosine",
        )  # fmt: skip

    says = exhibit.measured("words looked up", len(neighbours), should_be="as in the snapshot")

    assert neighbours == snapshot, says
