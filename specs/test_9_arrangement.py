"""Experiment 9: the parts of a model's layers stand where they were trained."""

import mlx.core as mx
import pytest

from fixtures.doubles.rearranged import (
    with_gates_exchanged,
    with_layers_exchanged,
    with_squares_transposed,
)
from fixtures.texts.passages import passages
from llm_spec.quality import arrangement, exchange

TEXTS, TOKENS = ("prose", "code", "dialogue", "exposition"), 128


def rows_of(trained):
    """Token ids of the first tokens of several texts, (texts, tokens)."""
    ids = [list(trained.tokenizer.encode(text)) for text in passages(*TEXTS).values()]
    tokens = min(TOKENS, *map(len, ids))
    return mx.array([each[:tokens] for each in ids])


def hold(trained, exhibit, looks, parts, made_otherwise):
    """What looks exchanged is exchanged back, and must not save anything."""
    if looks is None:
        pytest.skip(made_otherwise)
    found = exchange.saved_by_exchanging(trained.model, looks, rows_of(trained)) if looks else {}
    exhibit.table(
        [[each.what, each.sign, *found.get(each.what, ("", ""))] for each in looks],
        columns=["what", "sign", "bits per token saved", "standard error"],
        title=f"{parts} that look exchanged or transposed",
    )
    told = ", ".join(f"{bits:.2g} ± {error:.1g}" for bits, error in found.values())
    told = f" (undone, that saves {told} bits per token)" if found else ""

    says = exhibit.measured(f"{parts}{told}", list(found), should_be=[])

    assert not found, says


def exchange_the_gate_of_a_layer(trained):
    return {"trained": trained.replacing(model=with_gates_exchanged(trained.model, [7]))}


@pytest.mark.claim(id="9.182", falsifier=exchange_the_gate_of_a_layer)
def test_no_text_costs_less_with_gate_and_up_projections_exchanged(trained, exhibit):
    """Outputs of a gate have a mean further from 0 than those that it is multiplied with. Layers
    where they have not are exchanged one by one, while the layers before give what they gave."""
    looks = arrangement.gates_that_look_exchanged(trained.model, rows_of(trained))
    parts = "layers whose gate_proj and up_proj are exchanged"
    hold(trained, exhibit, looks, parts, "no layer has a gate_proj and an up_proj")


def transpose_the_outputs_of_a_layer(trained):
    changed = with_squares_transposed(trained.model, "self_attn.o_proj", [14])
    return {"trained": trained.replacing(model=changed)}


@pytest.mark.claim(id="9.183", falsifier=transpose_the_outputs_of_a_layer)
def test_no_text_costs_less_with_a_square_matrix_transposed(trained, exhibit):
    """The sizes of a matrix's columns follow the residual stream if it reads from there, and those
    of its rows if it writes to it. Square ones that do otherwise than in most layers are turned."""
    looks = arrangement.squares_that_look_transposed(trained.model)
    none = "no layer has a square matrix beside others"
    hold(trained, exhibit, looks, "square matrices that are transposed", none)


def exchange_two_layers(trained):
    return {"trained": trained.replacing(model=with_layers_exchanged(trained.model, 14))}


@pytest.mark.claim(id="9.184", falsifier=exchange_two_layers)
def test_no_text_costs_less_with_two_layers_exchanged(trained, exhibit):
    """Weights of norms change little from a layer to the next. Layers are exchanged where that
    makes the way through all of them shorter."""
    looks = arrangement.layers_that_look_exchanged(trained.model)
    none = "too few of its layers have weights of the same shapes"
    hold(trained, exhibit, looks, "layers that are exchanged", none)
