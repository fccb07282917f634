"""Experiment 1: how the KV cache changes the time per decode step, as ratios within one run."""

import time
from itertools import pairwise

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches

from fixtures.doubles.instruments import Waiting
from fixtures.synthetic.filled_caches import filled, held, plain_cache
from llm_spec.numerics import timing
from llm_spec.performance import bandwidth

# On a CPU time is arithmetic, so a short prefix shows in it. A GPU reads its weights for one token
# as long as for a hundred, and needs a longer one.
PREFIXES = (16, 128) if mx.default_device() == mx.cpu else (128, 4096)
CONTEXTS = (256, 2048, 8192)
ROUNDS = 3
PAIRED_ROUNDS = 9


def wait_after_the_long_prefix(trained):
    slow = Waiting(trained.model, lambda known, took: 5 * took * (known >= max(PREFIXES)))
    return {"trained": trained.replacing(model=slow)}


@pytest.mark.claim(id="1.26", falsifier=wait_after_the_long_prefix)
def test_a_step_with_a_cache_does_not_grow_with_the_prefix_and_without_one_it_does(
    trained, exhibit
):
    """Milliseconds for the next token after a short and a long prefix, in turns; the best of 3."""
    model = trained.model
    steps = [decode_step(model, prefix) for prefix in PREFIXES]
    whole = [reading(model, prefix) for prefix in PREFIXES]
    samples = in_turns([*steps, *whole])
    cached, uncached = ([1e3 * min(times) for times in part] for part in (samples[:2], samples[2:]))
    exhibit.curve(
        PREFIXES, {"with a cache": cached, "without": uncached}, title="the next token",
        x_axis="tokens before it", y_axis="milliseconds",
    )  # fmt: skip
    noise = noise_of(samples)
    exhibit.noise("the time of one step, worst over best of its rounds", noise)
    flat, grows = cached[1] / cached[0], uncached[1] / uncached[0]

    says = exhibit.measured(
        "time per decode step, long over short prefix: with a KV cache, without",
        f"{flat:.2f}, {grows:.2f}", should_be="at most 1.5, at least 2",
    )  # fmt: skip

    beyond_noise = flat > 1.5 * (1 + noise) or grows < 2 / (1 + noise)
    if (flat > 1.5 or grows < 2) and not beyond_noise:
        exhibit.inconclusive(f"the times of one step vary by {noise:.0%}")
    assert flat <= 1.5, says
    assert grows >= 2, says


def in_turns(works, rounds=ROUNDS):
    """The seconds that each took, one tuple each; a slow moment of the machine slows them all."""
    return list(zip(*([work() for work in works] for _ in range(rounds)), strict=True))


def noise_of(samples):
    """How much longer than the best round the worst one took, as a share."""
    return max(max(times) / min(times) - 1 for times in samples)


def decode_step(model, prefix):
    """Times one step after `prefix` cached tokens, all zeros: time does not depend on values."""
    cache = filled(model, 1, plain_cache(model))
    for each in cache:
        _, heads, _, width = each.keys.shape
        empty = mx.zeros((1, heads, prefix, width), each.keys.dtype)
        each.state = (empty, empty, prefix)
    token = mx.array([[0]])

    def step():
        start = time.perf_counter()
        mx.eval(model(token, cache=cache))
        passed = time.perf_counter() - start
        caches.trim_prompt_cache(cache, 1)
        return passed

    step()  # makes room for the next token
    return step


def reading(model, prefix):
    """Times the prediction after `prefix` tokens without a cache."""
    text = mx.zeros((1, prefix), mx.int32)

    def read():
        start = time.perf_counter()
        mx.eval(model(text)[:, -1])
        return time.perf_counter() - start

    return read


def wait_the_longer_the_less_is_cached(trained):
    slow = Waiting(
        trained.model, lambda known, took: 5 * took * CONTEXTS[0] / max(known, CONTEXTS[0])
    )
    return {"trained": trained.replacing(model=slow)}


@pytest.mark.claim(id="1.27", falsifier=wait_the_longer_the_less_is_cached)
def test_a_step_grows_with_all_that_it_must_read_of_the_cache(trained, exhibit):
    """Thousands of tokens: attention reads every key and value, which no cache can spare. Growth
    is a ratio within each round, whose three steps follow one another; the median of 9."""
    model = trained.model
    samples = in_turns([decode_step(model, context) for context in CONTEXTS], PAIRED_ROUNDS)
    exhibit.curve(
        CONTEXTS, {"with a cache": [1e3 * timing.Sample(each).median for each in samples]},
        title="the next token", x_axis="tokens before it", y_axis="milliseconds",
    )  # fmt: skip
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    token = held(filled(model, 1))
    read = [weights + token * context for context in CONTEXTS]
    # A byte of the cache costs at least half of what a byte of the weights costs.
    least = [(more / less - 1) / 2 for less, more in pairwise(read)]
    growth = [
        timing.Sample(tuple(b / a for a, b in zip(less, more, strict=True)))
        for less, more in pairwise(samples)
    ]
    margins = [g.median - 1 - bound for g, bound in zip(growth, least, strict=True)]
    noise = [2 * g.error * g.median for g in growth]
    exhibit.noise("growth of a decode step over thousands of tokens", max(noise))

    says = exhibit.measured(
        f"growth of a decode step over {spelled(CONTEXTS)} cached tokens",
        ", ".join(f"{g.median - 1:.1%} ± {n:.1%}" for g, n in zip(growth, noise, strict=True)),
        should_be=" and ".join(f"{bound:.1%}" for bound in least) + " or more",
    )

    if mx.default_device() == mx.gpu:
        skip_where_reading_is_nothing(read[-1], min(samples[-1]))
    beyond_noise = any(margin <= -n for margin, n in zip(margins, noise, strict=True))
    if min(m - n for m, n in zip(margins, noise, strict=True)) < 0 and not beyond_noise:
        exhibit.inconclusive(f"growth is known to {max(noise):.1%} only")
    assert min(margins) >= 0, says


def skip_where_reading_is_nothing(nbytes, seconds):
    """On a large GPU a step that is a tenth reading at most waits for launches."""
    takes = nbytes / bandwidth.streaming().sample(3).best
    if takes < seconds / 10:
        pytest.skip(
            f"of {1e3 * seconds:.3g} ms per step, reading takes {1e3 * takes:.2g} ms on this device"
        )


def spelled(numbers):
    return ", ".join(f"{number:,}" for number in numbers)
