"""Experiment 9: the model of a directory uses its context."""

import pytest

from fixtures.doubles.permuted import PermutedModel
from fixtures.texts.passages import passages
from llm_spec.quality import context

TEXT_TOKENS = 96
# What SmolLM2 saves with its q and k permuted, which leaves it a liking for tokens it has seen: 2.8
# bits per token. In order it saves 15.4.
LEAST_BY_REPETITION = 5.0
MADE_OTHERWISE = "its attention has no rows of q and k that are turned in halves, as llama's are"


def permute_queries_and_keys(trained):
    return {"trained": trained.replacing(model=PermutedModel(trained.model))}


def text_of(trained):
    return list(trained.tokenizer.encode(passages("prose")["prose"]))[:TEXT_TOKENS]


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
    and those of Meta have pairs side by side, MLX and transformers have halves."""
    found = context.bits_by_row_order(trained.model, text_of(trained)[:64])
    if len(found) == 1:
        pytest.skip(MADE_OTHERWISE)
    exhibit.bars(found, title="a text by the order of q's and k's rows", axis="bits per token")
    best = min(found, key=found.__getitem__)
    look = "in order" if best == "as stored" else f"permuted: they predict better with {best}"

    says = exhibit.measured("rows of q and k", look, should_be="in order")

    assert best == "as stored", says
