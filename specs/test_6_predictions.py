"""Experiment 6: what a model predicts, and how confident the prediction is."""

import mlx.core as mx
import numpy as np
import pytest

from fixtures.doubles.tampered import TamperedModel
from fixtures.texts import prompts
from llm_spec.model import tokens
from llm_spec.numerics import sampling

IDS = [7, 203, 7, 19, 5, 211, 42]  # for models without a tokenizer
CLOSED = ("Rust is a programming", "The capital of France is")  # one right answer each
OPEN = ("Rust on the iron", "I love eating")
SHOWN = 200  # logits of an exhibit that are given one by one
ANSWERS = {"Rust is a programming": "language", "The capital of France is": "Paris"}
PLACES = (1, 10, 100)


def predicted(subject):
    """Each prompt of 6 and 6a with its float64 probabilities, (vocabulary,)."""
    for prompt in prompts.PREDICTIONS:
        logits = subject.next_logits(tokens.prompt(subject.tokenizer, prompt))
        yield prompt, sampling.softmax(logits)


def keep_the_last_row_only(declared):
    last = TamperedModel(declared.packed, lambda logits: logits[:, -1])
    return {"declared": declared.replacing(packed=last)}


@pytest.mark.claim(id="6.1", falsifier=keep_the_last_row_only)
def test_every_token_gets_a_score_for_every_row_of_the_vocabulary(declared, exhibit):
    """Nothing is evaluated: MLX knows the shape of an array before it computes the array."""
    shape = declared.packed(mx.array([IDS])).shape  # (batch, tokens, vocabulary)
    expected = (1, len(IDS), declared.facts["vocab_rows"])
    exhibit.table(
        [[*shape]], columns=["batch", "tokens", "vocabulary"], title="shape of the logits"
    )

    says = exhibit.measured("shape of the logits", shape, should_be=expected)

    assert shape == expected, says


def forget_to_normalise(monkeypatch):
    monkeypatch.setattr(mx, "softmax", lambda logits, **_: mx.exp(logits - logits.max()))


@pytest.mark.claim(id="6.2", falsifier=forget_to_normalise)
def test_softmax_turns_logits_into_probabilities_that_sum_to_one(subject, exhibit):
    """Softmax divides by a float32 sum, whose rounding is allowed; float64 adds up the result."""
    logits = mx.array(subject.next_logits(IDS))
    single = mx.softmax(logits)
    sums = {
        "float32, added in float64": added(single),
        "float32, added in float32": mx.sum(single).item(),
        "float64, added in float64": sampling.softmax(np.array(logits)).sum(),
    }
    exhibit.table(
        [[name, total - 1] for name, total in sums.items()],
        columns=["softmax in", "sum − 1"], title=f"sum over {logits.size:,} tokens",
    )  # fmt: skip
    missed = abs(added(single) - 1)
    allowed = rounding_of_a_sum(logits.size)

    says = exhibit.measured("distance of the sum from 1", missed, f"at most {allowed:.2g}")

    assert mx.min(single).item() >= 0, "a probability is below 0, but should be at least 0"
    assert missed <= allowed, says


def added(probabilities):
    return np.array(probabilities.astype(mx.float32)).astype(np.float64).sum()


def rounding_of_a_sum(terms):
    """The most that adding `terms` positive float32 numbers one by one can miss, relatively.

    Each addition rounds by half a unit; the denominator of a softmax is such a sum.
    """
    return terms * np.finfo(np.float32).eps / 2


def halve_the_precision(monkeypatch):
    softmax = mx.softmax
    monkeypatch.setattr(mx, "softmax", lambda logits: softmax(logits.astype(mx.bfloat16)))


@pytest.mark.claim(id="6.3", falsifier=halve_the_precision)
def test_what_the_probabilities_miss_one_by_is_a_common_factor(subject, exhibit):
    """Each probability divided by its float64 value: one ratio for all tokens, up to rounding."""
    logits = mx.array(subject.next_logits(IDS))
    exact = sampling.softmax(np.array(logits))
    likely = exact > 1e-30  # below, float32 itself runs out of digits
    ratios = np.array(mx.softmax(logits).astype(mx.float32))[likely] / exact[likely]
    spread = ratios.max() / ratios.min() - 1
    # Rounding the difference to the largest logit, and the exponential's own reduction of it, each
    # move the exponent by half a unit, up or down; 4 units are for the polynomial and the quotient.
    allowed = 2 * (np.ptp(np.array(logits)) + 4) * np.finfo(np.float32).eps
    exhibit.table(
        [["smallest", ratios.min() - 1], ["median", np.median(ratios) - 1],
         ["largest", ratios.max() - 1]],
        columns=["of the ratios", "float32 over float64 probability, − 1"],
        title=f"{likely.sum():,} tokens",
    )  # fmt: skip

    says = exhibit.measured("spread of the ratios", spread, should_be=f"at most {allowed:.2g}")

    assert likely.sum() > 100, f"comparable tokens = {likely.sum()}, but should be over 100"
    assert spread <= allowed, says


@pytest.mark.claim(id="6.8", falsifier=forget_to_normalise)
def test_softmax_of_half_precision_logits_sums_to_one_if_asked_for_precision(subject, exhibit):
    """Most models are published in bfloat16, whose sums lose small terms."""
    logits = mx.array(subject.next_logits(IDS))
    missed = {
        str(dtype).rpartition(".")[2]: [
            added(mx.softmax(logits.astype(dtype), precise=precise)) - 1
            for precise in (False, True)
        ]
        for dtype in (mx.bfloat16, mx.float16)
    }
    exhibit.table(
        [[name, *sums] for name, sums in missed.items()],
        columns=["logits in", "mx.softmax(logits): sum − 1", "with precise=True: sum − 1"],
        title=f"sum over {logits.size:,} tokens",
    )  # fmt: skip
    plain, precise = missed["bfloat16"]
    # The quotient is rounded to bfloat16, by at most half a unit of each probability.
    allowed = mx.finfo(mx.bfloat16).eps / 2 + rounding_of_a_sum(logits.size)

    says = exhibit.measured(
        "distance of the sum from 1 with precise=True (without)",
        f"{abs(precise):.2g} ({abs(plain):.2g})", should_be=f"at most {allowed:.2g}",
    )  # fmt: skip

    assert abs(precise) <= allowed, says


def prefer_rare_words(trained):
    def turned(logits):
        return -logits

    return {"trained": trained.replacing(model=TamperedModel(trained.model, turned))}


@pytest.mark.claim(id="6.4", falsifier=prefer_rare_words)
def test_the_ten_likeliest_tokens_are_the_recorded_ones(trained, exhibit, snapshot):
    """For every prompt of 6 and 6a, most likely first."""
    likeliest = {}
    for prompt in prompts.PREDICTIONS:
        ids = tokens.prompt(trained.tokenizer, prompt)
        logits = trained.next_logits(ids)
        best = np.argsort(-logits, kind="stable")[:SHOWN].tolist()
        pieces = tokens.token_texts(trained.tokenizer, best)
        likeliest[prompt] = pieces[:10]
        exhibit.add(
            "predictions", f"{prompt} …", prompt=prompt, tokens=pieces,
            logits=logits[best], tail=tail_of(logits, best),
        )  # fmt: skip

    said = ", ".join(f"{prompt}{pieces[0]}" for prompt, pieces in likeliest.items())

    says = exhibit.measured("most likely tokens", said, should_be="ten tokens each, as recorded")

    assert likeliest == snapshot, says


def tail_of(logits, shown, bins=40):
    """The logits that are not shown, as a histogram. A bin's centre is that of its probability."""
    rest = np.delete(logits, shown).astype(np.float64)
    edges = np.linspace(rest.min(), rest.max(), bins + 1)
    of = np.clip(np.digitize(rest, edges) - 1, 0, bins - 1)
    counts = np.bincount(of, minlength=bins)
    mass = np.bincount(of, weights=np.exp(rest - rest.max()), minlength=bins)
    filled = counts > 0
    centres = np.log(mass[filled] / counts[filled]) + rest.max()
    return {"logits": centres[::-1], "counts": counts[filled][::-1]}


def flatten(trained):
    return {
        "trained": trained.replacing(model=TamperedModel(trained.model, lambda logits: logits / 10))
    }


@pytest.mark.claim(id="6.5", falsifier=flatten)
def test_prompts_with_one_right_answer_are_predicted_most_confidently(trained, exhibit):
    """By the top token's probability, by entropy, and by how many tokens hold 90 %."""
    top, bits = {}, {}
    rows = []
    for prompt, probabilities in predicted(trained):
        answer = trained.tokenizer.decode([int(probabilities.argmax())])
        if prompt in CLOSED and answer.strip() != ANSWERS[prompt]:  # it does not take it for one
            pytest.skip(f"{trained.name} goes on with {answer!r}, not with {ANSWERS[prompt]}")
        top[prompt], bits[prompt] = probabilities.max(), sampling.entropy(probabilities)
        nucleus = int(sampling.top_p(probabilities, 0.9).sum())
        rows.append([f"{prompt} …", 100 * top[prompt], bits[prompt], nucleus])
    exhibit.table(
        rows, columns=["prompt", "top token (%)", "entropy (bits)", "tokens that hold 90 %"],
        title="confidence",
    )  # fmt: skip
    margin = min(top[p] for p in CLOSED) / max(top[p] for p in OPEN)
    gap = min(bits[p] for p in OPEN) - max(bits[p] for p in CLOSED)

    says = exhibit.measured(
        "closed over open prompts: top probability, entropy",
        f"× {margin:.3g}, − {gap:.3g} bits", should_be="more than twice, at least 2 bits less",
    )  # fmt: skip

    confident = margin > 2 and gap >= 2
    assert confident, says


@pytest.mark.claim(id="6.6", falsifier=flatten)
def test_a_confident_prediction_need_not_reach_ninety_percent(trained, exhibit, snapshot):
    """The top token's probability in bands, from the most to the least confident prompt."""
    top = {prompt: probabilities.max() for prompt, probabilities in predicted(trained)}
    order = sorted(top, key=top.get, reverse=True)
    exhibit.bars(
        {f"{prompt} …": top[prompt] for prompt in order},
        title="most likely token",
        axis="probability",
    )
    bands = [f"{prompt}: {band(top[prompt])}" for prompt in order]

    says = exhibit.measured("top probabilities", "; ".join(bands), should_be="as recorded")

    assert bands == snapshot, says


def band(share):
    edges = (0.9, 0.5, 0.1)
    above = next((edge for edge in edges if share >= edge), None)
    return f"{above:.0%} or more" if above else f"below {edges[-1]:.0%}"


def move_every_word(trained):
    def turned(logits):
        return mx.roll(logits, 1, axis=-1)

    return {"trained": trained.replacing(model=TamperedModel(trained.model, turned))}


@pytest.mark.claim(id="6.7", falsifier=move_every_word)
def test_the_words_that_the_plan_expects_have_the_recorded_ranks(trained, exhibit, snapshot):
    """Rank 1 is the most likely token; the probability is that of the word's first token."""
    rows, places = [], {}
    for prompt, probabilities in predicted(trained):
        for word in prompts.PREDICTIONS[prompt]:
            first = tokens.encode(trained.tokenizer, f" {word}")[0]
            rank = int((probabilities > probabilities[first]).sum()) + 1
            rows.append([f"{prompt} …", word, rank, 100 * probabilities[first]])
            places[word] = next((f"first {n}" for n in PLACES if rank <= n), f"beyond {PLACES[-1]}")
    exhibit.table(
        rows, columns=["prompt", "the plan expects", "rank", "probability (%)"], title="ranks"
    )
    said = ", ".join(f"{word}: {place}" for word, place in places.items())

    says = exhibit.measured("ranks", said, should_be="as recorded")

    assert places == snapshot, says
