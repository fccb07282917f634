"""Experiment 9: the parts of a model's layers stand where they were trained."""

import mlx.core as mx
import pytest

from fixtures.doubles.rearranged import (
    with_gates_exchanged,
    with_layers_exchanged,
    with_squares_transposed,
)
from fixtures.texts.passages import passages
from llm_spec.quality import arrangement, exchange, likelihood, rotary

TEXTS, TOKENS = ("prose", "code", "dialogue", "exposition"), 128


def rows_of(directory):
    """Token ids of the first tokens of several texts, (texts, tokens)."""
    ids = [list(directory.tokenizer.encode(text)) for text in passages(*TEXTS).values()]
    tokens = min(TOKENS, *map(len, ids))
    return mx.array([each[:tokens] for each in ids])


def saved_where_nothing_is_predicted(directory, looks):
    """What all exchanges together save of a model that predicts no better than letter pairs, if it
    does once they are made; skips where it does not."""
    if looks:
        rows = rows_of(directory)
        before, after = exchange.bits_with_all_exchanged(directory.model, looks, rows)
        size = sum(len(directory.tokenizer.decode(row[1:]).encode()) for row in rows.tolist())
        if after.sum() / size < likelihood.bigram_bits_per_byte(passages().values()):
            return {each.what: rotary.saved(before, after) for each in looks}
    pytest.skip(f"{directory.name} predicts no better than letter pairs, and not for this")


def hold(directory, exhibit, looks, parts, made_otherwise):
    """What looks exchanged is exchanged back, and must not save anything."""
    if looks is None:
        pytest.skip(made_otherwise)
    if not directory.is_trained:
        found = saved_where_nothing_is_predicted(directory, looks)
    else:
        rows = rows_of(directory)
        found = exchange.saved_by_exchanging(directory.model, looks, rows) if looks else {}
    exhibit.table(
        [[each.what, each.sign, *found.get(each.what, ("", ""))] for each in looks],
        columns=["what", "sign", "bits per token saved", "standard error"],
        title=f"{parts} that look exchanged or transposed",
    )
    each = dict.fromkeys(f"{bits:.2g} ± {error:.1g}" for bits, error in found.values())
    told = ", ".join(each)
    told = f" (undone, that saves {told} bits per token)" if found else ""

    says = exhibit.measured(f"{parts}{told}", list(found), should_be=[])

    assert not found, says


def exchange_the_gate_of_a_layer(directory):
    return {"directory": directory.replacing(model=with_gates_exchanged(directory.model, [7]))}


@pytest.mark.claim(id="9.182", falsifier=exchange_the_gate_of_a_layer)
def test_no_text_costs_less_with_gate_and_up_projections_exchanged(directory, exhibit):
    """Outputs of a gate have a mean further from 0 than those that it is multiplied with. Layers
    where they have not are exchanged one by one, while the layers before give what they gave."""
    looks = arrangement.gates_that_look_exchanged(directory.model, rows_of(directory))
    parts = "layers whose gate_proj and up_proj are exchanged"
    hold(directory, exhibit, looks, parts, "no layer has a gate_proj and an up_proj")


def transpose_the_outputs_of_a_layer(directory):
    changed = with_squares_transposed(directory.model, "self_attn.o_proj", [14])
    return {"directory": directory.replacing(model=changed)}


@pytest.mark.claim(id="9.183", falsifier=transpose_the_outputs_of_a_layer)
def test_no_text_costs_less_with_a_square_matrix_transposed(directory, exhibit):
    """The sizes of a matrix's columns follow the residual stream if it reads from there, and those
    of its rows if it writes to it. Square ones that do otherwise than in most layers are turned."""
    looks = arrangement.squares_that_look_transposed(directory.model)
    none = "no layer has a square matrix beside others"
    hold(directory, exhibit, looks, "square matrices that are transposed", none)


def exchange_two_layers(directory):
    return {"directory": directory.replacing(model=with_layers_exchanged(directory.model, 14))}


@pytest.mark.claim(id="9.184", falsifier=exchange_two_layers)
def test_no_text_costs_less_with_two_layers_exchanged(directory, exhibit):
    """Weights of norms change little from a layer to the next. Layers are exchanged where that
    makes the way through all of them shorter."""
    looks = arrangement.layers_that_look_exchanged(directory.model)
    none = "too few of its layers have weights of the same shapes"
    hold(directory, exhibit, looks, "layers that are exchanged", none)
