"""Experiment 6: penalties and biases, which change logits before a token is drawn."""

import importlib
from collections import Counter

import numpy as np
import pytest
from mlx_lm import sample_utils

from fixtures.models.draws import histories, next_logits
from llm_spec.laws.library.samplers import processed
from llm_spec.numerics import sampling
from llm_spec.numerics.distances import worst

# The package exports a function of the same name, which hides the module from `import … as`.
cli = importlib.import_module("mlx_lm.generate")

HISTORY = [42, 7, 203, 7, 19, 5, 7, 211]  # one token three times


def logits_after(subject):
    """(vocabulary,) float32, shifted so that half are negative: softmax does not mind a shift."""
    logits = next_logits(subject)
    return logits - np.median(logits)


def far_apart(values, expected):
    """Tokens whose logits differ by more than the rounding of one operation on float32."""
    return np.flatnonzero(~np.isclose(values, expected, rtol=4 * np.finfo(np.float32).eps, atol=0))


def only_divide(monkeypatch):
    def dividing(penalty, context_size):
        return lambda tokens, logits: logits.at[:, tokens[-context_size:]].divide(penalty)

    monkeypatch.setattr(sample_utils, "make_repetition_penalty", dividing)


@pytest.mark.claim(id="6.20", falsifier=only_divide)
def test_a_repetition_penalty_pushes_each_recent_token_down_once(subject, exhibit):
    """Whatever the sign of its logit and however often it occurs; only the last n tokens count."""
    logits = logits_after(subject)
    logits -= np.median(logits[HISTORY])  # no probability changes, and both signs are tried
    wrong = []
    for size in (len(HISTORY), 3, 20):
        expected = sampling.repetition_penalty(logits, HISTORY[-size:], 1.5)
        after = processed(logits, HISTORY, repetition_penalty=1.5, repetition_context_size=size)
        wrong += far_apart(after, expected).tolist()
    seen = Counter(HISTORY)
    exhibit.table(
        [[token, seen[token], logits[token], after[token]] for token in seen],
        columns=["token id", "times seen", "logit", "logit with a penalty of 1.5"],
        title="repetition penalty",
    )  # fmt: skip
    signs = {bool(logits[token] > 0) for token in seen}

    says = exhibit.measured("tokens with another logit than defined", wrong, should_be=[])

    assert signs == {True, False}, f"signs of {logits[HISTORY]} = one, but should be two"
    assert not wrong, says


def count_each_token_once(monkeypatch):
    monkeypatch.setattr(sample_utils, "make_frequency_penalty", sample_utils.make_presence_penalty)


@pytest.mark.claim(id="6.21", falsifier=count_each_token_once)
def test_a_presence_penalty_counts_once_and_a_frequency_penalty_every_time(subject, exhibit):
    """Both are subtracted from the logits of tokens that occur among the last twenty."""
    logits = logits_after(subject)
    times = np.bincount(HISTORY, minlength=logits.size)
    presence = processed(logits, HISTORY, presence_penalty=0.5)
    frequency = processed(logits, HISTORY, frequency_penalty=0.5)
    exhibit.table(
        [[t, times[t], logits[t] - presence[t], logits[t] - frequency[t]] for t in set(HISTORY)],
        columns=["token id", "times seen", "presence penalty", "frequency penalty"],
        title="subtracted at a penalty of 0.5",
    )  # fmt: skip
    # Each subtraction rounds by half a unit of a logit.
    allowed = times.max() * np.finfo(np.float32).eps * np.abs(logits).max()
    missed = worst(
        float(np.abs(logits - 0.5 * subtracted - found).max())
        for subtracted, found in ((times > 0, presence), (times, frequency))
    )

    says = exhibit.measured(
        "largest distance from the definition", missed, f"at most {allowed:.2g}"
    )

    assert missed <= allowed, says


def forget_the_bias(monkeypatch):
    make = sample_utils.make_logits_processors

    def without_bias(logit_bias, **settings):
        return make(**settings)

    monkeypatch.setattr(sample_utils, "make_logits_processors", without_bias)


@pytest.mark.claim(id="6.22", falsifier=forget_the_bias)
def test_a_logit_bias_is_added_to_its_tokens_and_to_no_other(subject, exhibit):
    """A large negative bias forbids a token; a large positive one forces it."""
    logits = logits_after(subject)
    best = int(logits.argmax())
    bias = {best: -100.0, 5: 100.0, 42: 0.25}
    after = processed(logits, HISTORY, logit_bias=bias)
    expected = logits.copy()
    expected[list(bias)] += np.array(list(bias.values()), dtype=np.float32)
    exhibit.table(
        [[token, added, logits[token], after[token]] for token, added in bias.items()],
        columns=["token id", "bias", "logit", "logit with bias"], title="logit bias",
    )  # fmt: skip
    chosen = [int(logits.argmax()), int(after.argmax())]

    says = exhibit.measured("most likely token without and with bias", chosen, should_be=[best, 5])

    assert chosen == [best, 5], says
    others = far_apart(after, expected).tolist()
    assert not others, f"tokens with another logit than defined = {others}, but should be []"


def forget_the_prompt(monkeypatch):
    step = cli.generate_step

    def forgetful(prompt, model, logits_processors, **settings):
        known = len(prompt) - 1
        cut = [lambda t, logits, p=p: p(t[known:], logits) for p in logits_processors]
        return step(prompt, model, logits_processors=cut, **settings)

    monkeypatch.setattr(cli, "generate_step", forgetful)


@pytest.mark.claim(id="6.23", falsifier=forget_the_prompt)
def test_penalties_see_the_whole_prompt_and_all_that_was_generated(subject, exhibit):
    """With any prefill chunk size; each penalty decides for itself how far it looks back."""
    rows = []
    for size in (2048, 3):
        shown, made = histories(
            HISTORY, cli.generate_step, subject.model, made=2, prefill_step_size=size
        )
        whole = [HISTORY + made[:i] for i in range(len(made))]
        rows.append([size, len(shown[0]), shown[: len(made)] == whole])
    exhibit.table(
        rows, columns=["prefill chunk (tokens)", "tokens at first", "all tokens at every step"],
        title=f"a prompt of {len(HISTORY)} tokens",
    )  # fmt: skip
    complete = [row[2] for row in rows]

    says = exhibit.measured("histories complete", complete, should_be=[True, True])

    assert complete == [True, True], says
