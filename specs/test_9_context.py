"""Experiment 9: the model of a directory uses its context."""

import pytest

from fixtures.doubles.permuted import PermutedModel, with_layers_permuted, with_rope_base_times
from fixtures.texts.passages import passages
from llm_spec.observe.recorder import layers_of
from llm_spec.quality import context, rotary

TEXT_TOKENS = 96
LONGER = 192  # tokens, of which a wrong base or a few wrong layers are told
# What SmolLM2 saves with a twentieth of its base put right is 0.3 bits per token; with its own base
# no other saves anything.
MOST_SAVED, ERRORS = 0.05, 3
# What SmolLM2 saves with its q and k permuted, which leaves it a liking for tokens it has seen: 2.8
# bits per token. In order it saves 15.4.
LEAST_BY_REPETITION = 5.0
MADE_OTHERWISE = "its attention has no rows of q and k that are turned in halves, as llama's are"


def permute_queries_and_keys(trained):
    return {"trained": trained.replacing(model=PermutedModel(trained.model))}


def text_of(trained, tokens=TEXT_TOKENS):
    return list(trained.tokenizer.encode(passages("prose")["prose"]))[:tokens]


@pytest.mark.claim(id="9.111", falsifier=permute_queries_and_keys)
def test_a_long_context_predicts_better_than_a_short_one(trained, exhibit):
    """The second half of a text, after its whole context and after only four tokens."""
    saved = context.bits_saved_by_context(trained.model, text_of(trained))

    says = exhibit.measured("bits per token that context saves", saved, should_be="more than 0")

    assert saved > 0, says


@pytest.mark.claim(id="9.112", falsifier=permute_queries_and_keys)
def test_random_tokens_are_predicted_when_they_come_again(trained, exhibit):
    """32 random tokens, twice: only the first copy can predict the second."""
    vocabulary = len(trained.tokenizer.get_vocab())
    saved = context.bits_saved_by_repetition(trained.model, vocabulary)

    says = exhibit.measured(
        "bits per token that repetition saves", saved, should_be=f"over {LEAST_BY_REPETITION:g}"
    )

    assert saved > LEAST_BY_REPETITION, says


@pytest.mark.claim(id="9.113", falsifier=permute_queries_and_keys)
def test_queries_and_keys_predict_best_in_the_order_they_are_stored_in(trained, exhibit):
    """Bits per token of a text with the rows of each head of q and k in three orders: GGUF files
    and those of Meta have pairs side by side, MLX and transformers have halves. Another order must
    save three standard errors: where positions are scaled wrongly, each order is as bad."""
    found = context.bits_by_row_order(trained.model, text_of(trained)[:64])
    if len(found) == 1:
        pytest.skip(MADE_OTHERWISE)
    exhibit.bars(
        {order: float(bits.mean()) for order, bits in found.items()},
        title="a text by the order of q's and k's rows", axis="bits per token",
    )  # fmt: skip
    stored = found.pop("as stored")
    saved = {order: rotary.saved(stored, bits) for order, bits in found.items()}
    best = max(saved, key=lambda order: saved[order].bits)
    permuted = saved[best].bits > ERRORS * saved[best].error
    look = f"permuted: they predict better with {best}" if permuted else "in order"

    says = exhibit.measured("rows of q and k", look, should_be="in order")

    assert look == "in order", says


def permute_four_layers(trained):
    some = range(2, len(layers_of(trained.model)), 7)
    return {"trained": trained.replacing(model=with_layers_permuted(trained.model, some))}


@pytest.mark.claim(id="9.173", falsifier=permute_four_layers)
def test_no_layer_has_the_rows_of_its_queries_and_keys_in_pairs(trained, exhibit):
    """Rows that are turned together have norms of one size. Where neighbours have instead, their
    layers are put in order, and a text must then be predicted better for them to be at fault."""
    suspect = rotary.layers_that_look_permuted(trained.model)
    if suspect is None:
        pytest.skip(MADE_OTHERWISE)
    told = ""
    if suspect:
        saved = rotary.saved_by_reordering(trained.model, suspect, text_of(trained, LONGER))
        told = f" (put in order, they save {saved.bits:.2g} ± {saved.error:.1g} bits per token)"
        if saved.bits <= 0:
            suspect = []
    exhibit.table([[i] for i in suspect], columns=["layer"], title="layers in pairs")

    says = exhibit.measured(f"layers whose q and k look permuted{told}", suspect, should_be=[])

    assert not suspect, says


def state_a_twentieth_of_the_base(trained):
    return {"trained": trained.replacing(model=with_rope_base_times(trained.model, 1 / 20))}


@pytest.mark.claim(id="9.174", falsifier=state_a_twentieth_of_the_base)
def test_no_other_rope_base_predicts_a_text_better(trained, exhibit):
    """Bits per token that a text costs less with 4 and 16 times the base, and with a fraction."""
    found = rotary.saved_by_other_bases(trained.model, text_of(trained, LONGER))
    if not found:
        pytest.skip("it has no rotary embeddings of MLX's with a base")
    exhibit.table(
        [[base, *saved] for base, saved in found.items()],
        columns=["base", "bits per token saved", "standard error"], title="other RoPE bases",
    )  # fmt: skip
    best = max(found, key=lambda base: found[base].bits)
    bound = max(MOST_SAVED, ERRORS * found[best].error)

    says = exhibit.measured(
        f"bits per token that another base saves ({best})", found[best].bits,
        should_be=f"at most {bound:.2g}", bound=bound,
    )  # fmt: skip

    assert found[best].bits <= bound, says
