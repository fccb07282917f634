"""Experiment 6: how mlx-lm's samplers draw from a distribution, against their definitions."""

import threading

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from fixtures.models.draws import DRAWN_FROM, DRAWS, FALSE_ALARM, draw, logprobs_of
from fixtures.texts.seeds import SAMPLER
from llm_spec.model.declare import random_state_kept
from llm_spec.numerics import sampling


def fairness(drawn, probabilities):
    """The p-value of the draws under `probabilities`."""
    return sampling.chi_square(np.bincount(drawn, minlength=probabilities.size), probabilities)


def draw_at(monkeypatch, temperature_for):
    """Let samplers draw at another temperature than they were asked for."""
    categorical = sample_utils.categorical_sampling

    def drawing(logprobs, temp):
        return categorical(logprobs, temperature_for(temp))

    monkeypatch.setattr(sample_utils, "categorical_sampling", drawing)


def keep_warm(monkeypatch):
    draw_at(monkeypatch, lambda temp: max(temp, 0.5))


@pytest.mark.claim(id="6.10", falsifier=keep_warm)
def test_temperature_towards_zero_is_greedy(subject, exhibit):
    """The share of draws that are the most likely token; at temperature 0 nothing is drawn."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    best = int(mx.argmax(logprobs))
    temperatures = [0.0, 1e-6, 1e-4, 0.01, 0.1, 0.3, 1.0]
    shares = [float((draw(logprobs, 512, temp=t) == best).mean()) for t in temperatures]
    exhibit.table(
        [[t, 100 * share] for t, share in zip(temperatures, shares, strict=True)],
        columns=["temperature", "draws that are the most likely token (%)"],
        title="falling temperature",
    )  # fmt: skip
    first, second = np.sort(np.array(logprobs))[:-3:-1]

    assert (first - second) / 1e-6 > 100, "the two likeliest tokens are too close to be told apart"
    assert shares[-1] < 1, "share of the top token at temperature 1 = 1, but should be below 1"
    says = exhibit.measured(
        "share of the top token at temperatures 0 and 1e-6", shares[:2], [1.0, 1.0]
    )
    assert shares[:2] == [1, 1], says


def cool_the_heat(monkeypatch):
    draw_at(monkeypatch, lambda temp: min(temp, 3.0))


@pytest.mark.claim(id="6.11", falsifier=cool_the_heat)
def test_temperature_towards_infinity_is_uniform(subject, exhibit):
    """The p-value of a chi-square test against equal probability for every token."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    even = np.full(logprobs.size, 1 / logprobs.size)
    temperatures = [1.0, 3.0, 10.0, 100.0, 1e6]
    values = [fairness(draw(logprobs, temp=t), even) for t in temperatures]
    exhibit.table(
        [list(row) for row in zip(temperatures, values, strict=True)],
        columns=["temperature", "p-value of uniform draws"], title=f"{DRAWS:,} draws",
    )  # fmt: skip

    says = exhibit.measured("p-value at 1e6", values[-1], should_be=f"at least {FALSE_ALARM:g}")

    assert values[0] < FALSE_ALARM, "draws at temperature 1 are uniform, but should not be"
    assert values[-1] >= FALSE_ALARM, says


def overheat(monkeypatch):
    draw_at(monkeypatch, lambda temp: 1.2 * temp)


@pytest.mark.claim(id="6.12", falsifier=overheat)
def test_temperature_divides_the_logits(subject, exhibit):
    """Draws at temperature T follow softmax(logits / T): p-values of a chi-square test."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    values = {
        t: fairness(draw(logprobs, temp=t), sampling.softmax(np.array(logprobs), t))
        for t in (0.5, 1.0, 1.5)
    }
    exhibit.table(
        list(values.items()), columns=["temperature", "p-value"], title=f"{DRAWS:,} draws each"
    )
    worst, allowed = min(values.values()), FALSE_ALARM / len(values)

    says = exhibit.measured("smallest p-value", worst, should_be=f"at least {allowed:.2g}")

    assert worst >= allowed, says


FILTERS = {
    "none": ({}, lambda p: np.ones(p.size, dtype=bool)),
    "top-k 20": ({"top_k": 20}, lambda p: p >= np.sort(p)[-20]),
    "top-p 0.8": ({"top_p": 0.8}, lambda p: sampling.top_p(p, 0.8)),
    "min-p 0.1": ({"min_p": 0.1}, lambda p: sampling.min_p(p, 0.1)),
}


@pytest.mark.claim(id="6.16", falsifier=overheat)
def test_draws_follow_what_is_kept_renormalised(subject, exhibit):
    """p-values of a chi-square test; a token that a filter dropped is never drawn."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    probabilities = sampling.softmax(logprobs)
    rows = []
    for name, (settings, definition) in FILTERS.items():
        kept = np.where(definition(probabilities), probabilities, 0)
        value = fairness(draw(logprobs, temp=1.0, **settings), kept / kept.sum())
        rows.append([name, int((kept > 0).sum()), value])
    exhibit.table(rows, columns=["filter", "tokens kept", "p-value"], title=f"{DRAWS:,} draws each")
    worst, allowed = min(row[-1] for row in rows), FALSE_ALARM / len(rows)

    says = exhibit.measured("smallest p-value", worst, should_be=f"at least {allowed:.2g}")

    assert worst >= allowed, says


def freeze_the_state(monkeypatch):
    def frozen(logprobs, temp):
        return mx.random.categorical(logprobs / temp, key=mx.random.key(0))

    monkeypatch.setattr(sample_utils, "categorical_sampling", frozen)


@pytest.mark.claim(id="6.19", falsifier=freeze_the_state)
def test_a_seed_repeats_the_draws_and_another_does_not(subject, exhibit):
    """In this thread and another one, where some releases froze the random state."""
    logprobs = logprobs_of(subject, DRAWN_FROM)
    rows = [["this thread", *repeats(logprobs)]]
    worker = threading.Thread(target=lambda: rows.append(["another thread", *repeats(logprobs)]))
    worker.start()
    worker.join()
    exhibit.table(
        rows, columns=["in", "same seed", "another seed", "next draw of the same seed"],
        title="draws equal to the first ones (%)",
    )  # fmt: skip
    moved = max(max(row[2:]) for row in rows)

    says = exhibit.measured(
        "equal draws: same seed; another seed or next draw",
        f"{min(row[1] for row in rows):g} %; {moved:.3g} %", should_be="100 %; at most 90 %",
    )  # fmt: skip

    repeated = all(row[1] == 100 for row in rows) and moved <= 90
    assert repeated, says


def repeats(logprobs):
    """Draws equal to those of a first seeded call, in percent: same seed, another, the next."""
    sampler = sample_utils.make_sampler(temp=1.0, top_p=0.9)
    rows = mx.broadcast_to(logprobs, (256, logprobs.size))
    with random_state_kept():
        runs = []
        for seed in (SAMPLER, SAMPLER, SAMPLER + 1):
            mx.random.seed(seed)
            runs.append([np.array(sampler(rows)) for _ in range(2)])
    (first, following), (again, _), (other, _) = runs
    return [100 * (first == drawn).mean() for drawn in (again, other, following)]
