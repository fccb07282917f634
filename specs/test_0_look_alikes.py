"""Experiment 0: tiny look-alikes of real models, on which a law must excuse what is healthy and
still see a fault.

Look-alikes of tokenizers and of trained models stand beside their claims: a tokenizer that adds a
BOS (5.60), another answer than Paris (5.61), SentencePiece (0.86), a head that is dropped (9.133).
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import qwen3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fixtures import planted
from fixtures.planted import PROMPT
from fixtures.synthetic.architectures import build_architecture
from fixtures.synthetic.look_alikes import (
    KEY_BIAS,
    LARGE,
    with_a_large_vocabulary,
    with_large_scores,
)
from llm_spec.laws import LAWS, Case, execution
from llm_spec.laws.finding import LACKS_KERNEL
from llm_spec.laws.model import storage
from llm_spec.laws.tokenizer import text
from llm_spec.numerics import distances, tolerances
from llm_spec.observe import attention
from llm_spec.observe.trace import attention_calls

BY_NAME = {law.__name__: law for law in LAWS}
OF_SCORES = (
    *("attention_is_reproduced", "a_decode_step_is_reproduced"),
    "quantised_attention_is_reproduced",
    *("trimmed_is_never_fed", "saved_cache_continues", "batch_rows_are_alone"),
    *("generation_follows_the_logits", "speculation_is_greedy"),
)  # fmt: skip
OF_LOG_PROBABILITIES = ("generation_follows_the_logits", "speculation_is_greedy")
FEW = 14  # tokens: each costs a row of logits, which is a megabyte


def healthy_and_faulty(names, built, token_ids):
    """Per law its findings on a model as it is, and with the fault that is planted for the law."""
    model, config = built
    found = []
    for name in names:
        healthy = BY_NAME[name](Case(model, token_ids, config))
        with pytest.MonkeyPatch.context() as patch:
            broken = planted.for_law(name).into(patch, model, dict(config))
            faulty = BY_NAME[name](Case(broken[0], token_ids, broken[1]))
        found.append((healthy, faulty))
    return found


def add_the_scores_backwards(monkeypatch):
    """Let the model add its scores in the reverse order, as another device's kernel may."""
    attend = mx.fast.scaled_dot_product_attention

    def backwards(q, k, v, **how):
        return attend(q[..., ::-1], k[..., ::-1], v, **how)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", backwards)


def forget_the_scores(monkeypatch):
    bound = tolerances.reconstruction
    monkeypatch.setattr(tolerances, "reconstruction", lambda dtype, keys=0, *_: bound(dtype, keys))


@pytest.mark.claim(id="0.104", falsifier=forget_the_scores)
def test_a_key_bias_of_145_breaks_no_law_and_hides_no_fault(exhibit, monkeypatch):
    """Attention maps, caches, batches and generation with a largest score above 1,000."""
    model, config = with_large_scores()
    add_the_scores_backwards(monkeypatch)
    calls = [call for layer in attention_calls(model, PROMPT) for call in layer]
    score = max(map(attention.largest_score, calls))

    found = healthy_and_faulty(OF_SCORES, (model, config), PROMPT)

    assert score > 1000, f"largest score = {score:.0f}, but should be above 1,000"
    hold(found, exhibit, f"tiny qwen2 with a key bias of {KEY_BIAS:g}")


def compare_as_normalised(monkeypatch):
    monkeypatch.setattr(execution, "NORMALISER", 0.0)


@pytest.mark.claim(id="0.105", falsifier=compare_as_normalised)
def test_a_vocabulary_of_262144_hides_no_fault_of_the_loops(exhibit):
    """MLX's own log-sum-exp is off by more than the laws allow, which must excuse nothing else."""
    built = with_a_large_vocabulary("qwen3", hidden_size=32, num_hidden_layers=1)
    logits = Case(built[0], PROMPT[:FEW], built[1]).logits
    mine = logits - np.array(mx.logsumexp(mx.array(logits), axis=-1, keepdims=True))
    off = distances.distance(mine, execution.log_softmax(logits))

    found = healthy_and_faulty(OF_LOG_PROBABILITIES, built, PROMPT[:FEW])

    bound = Case(*built[:1], PROMPT).reordered
    if off <= bound:
        pytest.skip(f"MLX's log-sum-exp is off by {off:.2g} on this device, which hides nothing")
    hold(found, exhibit, f"tiny qwen3 with {LARGE:,} ids")


def trust_what_is_huge(monkeypatch):
    monkeypatch.setattr(storage, "_turned", lambda *_: True)


@pytest.mark.claim(id="9.155", falsifier=trust_what_is_huge)
def test_a_weight_too_large_for_its_gradient_is_seen_to_have_no_say(exhibit, monkeypatch):
    """The largest arrays are reversed instead: a healthy model, and one whose MLPs leave their
    up projection out."""
    monkeypatch.setattr(storage, "ROOM", 2**10)  # bytes: norms alone are smaller
    monkeypatch.setattr(storage, "HUGE", 10**6)
    model, config = build_architecture("qwen3")
    healthy = storage.every_weight_matters(Case(model, PROMPT, config))

    def without_up(self, x):
        return self.down_proj(mx.sigmoid(self.gate_proj(x)))

    monkeypatch.setattr(qwen3.MLP, "__call__", without_up)
    faulty = storage.every_weight_matters(Case(model, PROMPT, config))
    exhibit.table(
        [["healthy", healthy.says], ["without up_proj", faulty.says]],
        columns=["", "weight tensors without an effect"], title="arrays that are reversed",
    )  # fmt: skip
    seen = healthy.measured, faulty.measured
    idle = ", ".join(f"model.layers.{i}.mlp.up_proj.weight" for i in range(3))

    says = exhibit.measured(
        "arrays without an effect: healthy model, faulty model", seen, ("none", idle)
    )

    assert seen == ("none", idle), says


def hold(found, exhibit, name):
    """Each law must hold of the healthy model, and not of the faulty one by what was measured. What
    this device has no kernel for is not judged."""
    found = [pair for pair in found if not pair[0].what.startswith(LACKS_KERNEL)]
    assert found, "laws that this device can run = none, but should be some"
    exhibit.table(
        [[healthy.law, healthy.says, faulty.says] for healthy, faulty in found],
        columns=["law", "healthy", "with the law's fault"], title=name,
    )  # fmt: skip
    wrong = [healthy.law for healthy, faulty in found if not healthy.holds]
    blind = [faulty.law for _, faulty in found if faulty.holds is not False]
    seen = wrong, blind

    says = exhibit.measured(
        "laws that refute the healthy model, laws that miss the fault", seen, ([], [])
    )

    assert seen == ([], []), says


def with_words(merges):
    """A vocabulary of three words and six pieces of words, that reads a text with a space before
    it, as SentencePiece does."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [*letters, *map("".join, MERGES)]
    ids = {piece: id_ for id_, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


MERGES = [
    *(("▁", letter) for letter in "tdweoirsa"),
    *(("▁t", "o"), ("▁d", "o"), ("▁w", "e")),
    *(("e", "r"), ("o", "n"), ("i", "n"), ("r", "e"), ("s", "t"), ("a", "n")),
]


def take_every_piece_for_a_word(monkeypatch):
    monkeypatch.setattr(text, "_puts_a_space_before", lambda tokenizer: False)


@pytest.mark.claim(id="0.260", falsifier=take_every_piece_for_a_word)
def test_pieces_that_follow_a_letter_are_no_words_that_are_cut(exhibit):
    """Of nine pieces six are never the first of a text. With its merges lost all words are cut."""
    healthy, faulty = map(text.words_of_the_vocabulary_are_written, map(with_words, (MERGES, [])))
    exhibit.table(
        [["as it is", healthy.says], ["its merges lost", faulty.says]],
        columns=["tokenizer", "what the law finds"], title="words of the vocabulary",
    )  # fmt: skip

    says = exhibit.measured(
        "verdicts, as it is and its merges lost",
        (healthy.holds, faulty.holds),
        should_be=(True, False),
    )

    assert (healthy.holds, faulty.holds) == (True, False), says
