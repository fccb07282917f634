"""Experiment 6: which tokens mlx-lm's filters keep, against their definitions."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from fixtures.models.draws import DRAWN_FROM, FALSE_ALARM, draw, logprobs_of
from fixtures.models.law_verdict import record_finding
from fixtures.texts.seeds import SAMPLER
from llm_spec.laws.library import samplers
from llm_spec.model.declare import random_state_kept
from llm_spec.numerics import sampling


def keep_one_fewer(monkeypatch):
    apply = sample_utils.apply_top_k
    monkeypatch.setattr(sample_utils, "apply_top_k", lambda lp, k: apply(lp, max(1, k - 1)))


@pytest.mark.claim(id="6.13", falsifier=keep_one_fewer)
def test_top_k_keeps_k_tokens_and_none_is_less_likely_than_one_it_drops(subject, exhibit):
    """Of equally likely tokens top-k keeps any, but never more than k."""
    named = dict(distributions(subject))
    batches = [(lp[None], sampling.softmax(lp)[None]) for lp in named.values()]
    size = batches[0][0].size
    exhibit.bars(
        {f"{name}, k = {k}": kept(logprobs, top_k=k).sum()
         for name, logprobs in named.items() for k in (1, 10, size // 2)},
        title="what top-k keeps", axis="tokens",
    )  # fmt: skip
    finding = samplers.keeps_the_likeliest(batches, (1, 2, 10, size // 2, size - 1))

    says = record_finding(finding, exhibit)

    assert finding.holds, says


def kept(logprobs, **settings):
    """(tokens,) booleans: which tokens a sampler's filters leave of one distribution."""
    return samplers.survivors(logprobs[None], **settings)[0]


def distributions(subject):
    yield "as predicted", logprobs_of(subject)
    yield "with ties", logprobs_of(subject, steps=2)


def ask_for_more(monkeypatch):
    apply = sample_utils.apply_top_p
    monkeypatch.setattr(sample_utils, "apply_top_p", lambda lp, p: apply(lp, (1 + p) / 2))


@pytest.mark.claim(id="6.14", falsifier=ask_for_more)
def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_p(subject, exhibit):
    """Float32 sums decide where the set ends, so p is met to within their rounding."""
    rows = []
    for name, logprobs in distributions(subject):
        probabilities = sampling.softmax(logprobs)
        slack = probabilities.size * np.finfo(np.float32).eps / 2  # half a unit an addition
        for p in (0.1, 0.5, 0.9, 0.99):
            left = kept(logprobs, top_p=p)
            least = sampling.top_p(probabilities, p - slack)
            most = sampling.top_p(probabilities, p + slack)
            defined = bool((least <= left).all() and (left <= most).all())
            exactly = int(sampling.top_p(probabilities, p).sum())
            rows.append([name, p, int(left.sum()), exactly, probabilities[left].sum(), defined])
    exhibit.table(
        rows, columns=["distribution", "p", "kept", "in float64", "their share", "as defined"],
        title="top-p",
    )  # fmt: skip
    wrong = [row[:4] for row in rows if not row[-1]]

    says = exhibit.measured("sets that are not the nucleus", wrong, should_be=[])

    assert not wrong, says


def ask_for_less(monkeypatch):
    apply = sample_utils.apply_min_p
    monkeypatch.setattr(sample_utils, "apply_min_p", lambda lp, p, least: apply(lp, p / 2, least))


@pytest.mark.claim(id="6.15", falsifier=ask_for_less)
def test_min_p_keeps_the_tokens_at_least_p_times_as_likely_as_the_likeliest(subject, exhibit):
    """A token whose ratio is p to within rounding may stay or go."""
    rows = []
    for name, logprobs in distributions(subject):
        probabilities = sampling.softmax(logprobs)
        slack = 4 * np.finfo(np.float32).eps * np.abs(np.array(logprobs)).max()
        for p in (0.01, 0.05, 0.2, 0.5):
            left = kept(logprobs, min_p=p)
            least = sampling.min_p(probabilities, p * (1 + slack))
            most = sampling.min_p(probabilities, p * (1 - slack))
            defined = bool((least <= left).all() and (left <= most).all())
            rows.append([name, p, int(left.sum()), int(least.sum()), defined])
    exhibit.table(
        rows, columns=["distribution", "p", "kept", "in float64", "as defined"], title="min-p"
    )
    wrong = [row[:4] for row in rows if not row[-1]]

    says = exhibit.measured("sets that differ from the definition", wrong, should_be=[])

    assert not wrong, says


def take_temperature_first(monkeypatch):
    apply = sample_utils.apply_top_p

    def tempered(logprobs, p):
        return apply(logprobs / 3, p)

    monkeypatch.setattr(sample_utils, "apply_top_p", tempered)


@pytest.mark.claim(id="6.17", falsifier=take_temperature_first)
def test_temperature_never_changes_which_tokens_can_be_drawn(subject, exhibit):
    """Filters see the model's own distribution; top-k sees what top-p left."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    probabilities = sampling.softmax(logprobs)
    settings = {"top_p": 0.4, "top_k": 30}
    expected = sampling.top_p(probabilities, 0.4) & (probabilities >= np.sort(probabilities)[-30])
    rows = []
    for temperature in (0.3, 1.0, 3.0):
        left = kept(logprobs, temp=temperature, **settings)
        drawn = np.unique(draw(logprobs, temp=temperature, **settings))
        rows.append([temperature, int(left.sum()), drawn.size, bool((left == expected).all())])
    exhibit.table(
        rows, columns=["temperature", "kept", "drawn at least once", "as at temperature 1"],
        title="top-p 0.4, then top-k 30",
    )  # fmt: skip
    changed = [row[0] for row in rows if not row[-1]]

    says = exhibit.measured("temperatures that change the set", changed, should_be=[])

    assert expected.sum() > 1, "tokens kept = 1, but should be more"
    assert not changed, says


def spare_the_likeliest(monkeypatch):
    apply = sample_utils.apply_xtc

    def sparing(logprobs, chance, threshold, special):
        return apply(logprobs, chance, threshold, [*special, int(mx.argmax(logprobs))])

    monkeypatch.setattr(sample_utils, "apply_xtc", sparing)


@pytest.mark.claim(id="6.18", falsifier=spare_the_likeliest)
def test_xtc_excludes_the_top_choices_but_the_least_likely_of_them(subject, exhibit):
    """In the stated share of draws; special tokens are never excluded."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    probabilities = sampling.softmax(logprobs)
    order = np.argsort(-probabilities)
    threshold = float(np.sqrt(probabilities[order[4]] * probabilities[order[5]]))  # five above it
    rows = []
    for special in ([], [int(order[1])]):
        settings = {"xtc_threshold": threshold, "xtc_special_tokens": special}
        left = kept(logprobs, xtc_probability=1.0, **settings)
        expected = sampling.xtc(probabilities, threshold) | np.isin(np.arange(left.size), special)
        rows.append([len(special), int((~left).sum()), bool((left == expected).all())])
    exhibit.table(
        rows, columns=["special tokens among them", "excluded", "as defined"],
        title=f"five tokens above a threshold of {threshold:.3g}",
    )  # fmt: skip

    says = exhibit.measured("tokens excluded", [row[1] for row in rows], should_be=[4, 3])
    assert [row[2] for row in rows] == [True, True], says

    settings = {"xtc_threshold": threshold, "xtc_probability": 0.3}
    with random_state_kept():
        mx.random.seed(SAMPLER)
        excluded = sum(not kept(logprobs, **settings).all() for _ in range(100))
    value = sampling.chi_square(np.array([excluded, 100 - excluded]), np.array([0.3, 0.7]))
    says = exhibit.measured(
        f"p-value of {excluded} exclusions in 100 draws at probability 0.3", value,
        should_be=f"at least {FALSE_ALARM:g}",
    )  # fmt: skip
    assert value >= FALSE_ALARM, says
