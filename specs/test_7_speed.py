"""Experiment 7: a model's speed, against what the hardware allows."""

import contextlib
import io
import math
import re
import sys
from importlib import import_module
from itertools import pairwise

import pytest
from mlx_lm import benchmark

from fixtures.doubles.instruments import run_the_clock_slowly
from llm_spec.numerics import timing
from llm_spec.numerics.device import device_name
from llm_spec.performance import bandwidth, chips, roofline, speed

# The package exports a function of the same name.
generation = import_module("mlx_lm.generate")

ROUNDS = 3


def tokens(subject, count):
    return speed.token_ids(count, subject.config["vocab_size"])


def beside(work, reference):
    """Rates of `work`, and of a reference before and after each: what the machine did meanwhile."""
    rates, references = [], [reference.rate() for _ in range(2)]
    for _ in range(ROUNDS):
        rates.append(work())
        references += [reference.rate() for _ in range(2)]
    return timing.Sample(tuple(rates), "tok/s"), timing.Sample(tuple(references), reference.unit)


def record_roofline(exhibit, name, work, bandwidths, products, rate):
    """One point under the roof: `work` holds the operations and bytes of a token."""
    flops, read = work
    ceiling = min(products.best / flops, bandwidths.best / read)
    chip = chips.here()
    exhibit.table(
        [["measured", rate, ""], ["at most", ceiling, f"{rate / ceiling:.0%} reached"],
         ["at most, by the published bandwidth", chip and chip.bandwidth / read,
          chip.name if chip else "unknown chip"]],
        columns=[f"{name}, {bandwidths.median / 1e9:.0f} GB/s, {products.median / 1e9:.0f} GFLOP/s",
                 "tokens per second", ""],
        title=f"{name} against the machine's own ceilings",
    )  # fmt: skip
    exhibit.add(
        "roofline",
        f"{name} on {device_name()}",
        bandwidth=bandwidths.best,
        flops=products.best,
        published={"chip": chip.name, "bandwidth": chip.bandwidth} if chip else None,
        points=[
            {"name": name, "intensity": flops / read, "flops": flops * rate, "tokens_per_s": rate,
             "ceiling_tokens_per_s": ceiling, "share": rate / ceiling}
        ],
    )  # fmt: skip


def refute_above_one(exhibit, share, reference):
    """A ceiling is at least what the reference reached; noise in it may hide that it is higher."""
    says = exhibit.measured("share of the ceiling", share, should_be="above 0 and at most 1")
    if 1 < share <= reference.best / min(reference.values):
        exhibit.inconclusive(f"the machine's own speed varied: {reference}")
    assert 0 < share <= 1, says


@pytest.mark.claim(id="7.1", falsifier=run_the_clock_slowly)
def test_no_token_comes_faster_than_its_bytes_can_be_read(trained, exhibit):
    """Each token reads all weights once: bandwidth divided by those bytes is a ceiling."""
    prompt, products = tokens(trained, 4), bandwidth.multiplying(bandwidth.compute_dtype())
    speed.run_once(trained.model, prompt, 2)
    rates, bandwidths = beside(
        lambda: speed.run_once(trained.model, prompt, 8).decode, bandwidth.streaming()
    )
    work = roofline.prefill_flops(trained.model, 1), roofline.decode_read(trained.model, 8).total
    record_roofline(exhibit, "decode", work, bandwidths, products.sample(3), rates.median)

    refute_above_one(exhibit, rates.median * work[1] / bandwidths.best, bandwidths)


@pytest.mark.claim(id="7.2", falsifier=run_the_clock_slowly)
def test_no_prompt_is_read_faster_than_its_products_can_be_computed(trained, exhibit):
    """A prompt's tokens share one read of the weights; each needs two operations per weight."""
    prompt, streaming = tokens(trained, 64), bandwidth.streaming()
    speed.run_once(trained.model, prompt, 2)
    rates, products = beside(
        lambda: speed.run_once(trained.model, prompt, 2).prefill,
        bandwidth.multiplying(bandwidth.compute_dtype()),
    )
    flops = roofline.prefill_flops(trained.model, 1)
    read = roofline.decode_read(trained.model, 1).total / len(prompt)
    record_roofline(exhibit, "prefill", (flops, read), streaming.sample(3), products, rates.median)

    refute_above_one(exhibit, rates.median * flops / products.best, products)


def count_the_first_token(monkeypatch):
    rates = speed.rates

    def generous(prompt, start, arrivals):
        run = rates(prompt, start, arrivals)
        return speed.Run(run.first_token, run.prefill, run.decode * 16 / 15)

    monkeypatch.setattr(speed, "rates", generous)


@pytest.mark.claim(id="7.3", falsifier=count_the_first_token)
def test_decode_speed_agrees_with_mlx_lms_own_but_for_one_token(trained, exhibit, monkeypatch):
    """Both time the same generation. mlx-lm divides n tokens by the time of the last n - 1."""
    count, arrivals = 16, []
    steps = generation.generate_step
    monkeypatch.setattr(
        generation, "generate_step", lambda *a, **k: speed.timed(steps(*a, **k), arrivals)
    )
    prompt = tokens(trained, 16)
    start = speed.time.perf_counter()
    *_, last = generation.stream_generate(
        trained.model, endless(trained.tokenizer), prompt, max_tokens=count
    )
    ours, theirs = speed.rates(len(prompt), start, arrivals).decode, last.generation_tps
    exhibit.table(
        [
            ["this suite", ours],
            ["mlx-lm", theirs],
            ["mlx-lm × (n - 1) / n", theirs * (1 - 1 / count)],
        ],
        columns=["decode rate", "tokens per second"],
        title=f"{count} tokens, one generation",
    )
    ratio = ours / (theirs * (1 - 1 / count))

    says = exhibit.measured("ours over theirs, corrected", ratio, should_be="0.97 to 1.03")

    assert len(arrivals) == count, f"{len(arrivals)} tokens timed, but should be {count}"
    assert 0.97 <= ratio <= 1.03, says


def endless(tokenizer):
    """`tokenizer` without a token that ends a text, as mlx_lm.benchmark makes it."""
    same = generation.TokenizerWrapper(tokenizer._tokenizer)
    same._eos_token_ids = {}
    return same


READ, WRITTEN = 32, 32
TURNS, MOST, KNOWN = 9, 27, 0.015  # turns go on until the median is known so well


def stop_the_clock_early(monkeypatch):
    rates = speed.rates

    def generous(prompt, start, arrivals):
        run = rates(prompt, start, arrivals)
        return speed.Run(run.first_token, run.prefill, run.decode * 1.1)

    monkeypatch.setattr(speed, "rates", generous)


@pytest.mark.idle
@pytest.mark.claim(id="7.40", falsifier=stop_the_clock_early)
def test_decode_speed_agrees_with_mlx_lm_benchmark(trained, exhibit, monkeypatch):
    """The same model and lengths in turns, each run beside its neighbours; medians of ratios."""
    prompt = tokens(trained, READ)
    given = trained.model, endless(trained.tokenizer), trained.config
    monkeypatch.setattr(benchmark, "load", lambda path, **options: given)
    options = {"-p": READ, "-g": WRITTEN, "-n": 1}
    monkeypatch.setattr(sys, "argv", ["benchmark", *(str(x) for o in options.items() for x in o)])
    counted = 1 - 1 / WRITTEN  # theirs divides one token more by the same time
    ours, theirs, known = [], [benchmarked()], math.inf
    while len(ours) < TURNS or (known > KNOWN and len(ours) < MOST):
        # Each is timed once, right after a run of its own that does not count.
        ours.append(speed.measure_speed(trained.model, prompt, WRITTEN, rounds=1).decode.median)
        theirs.append(benchmarked())
        beside = [(a + b) / 2 * counted for a, b in pairwise(theirs)]
        ratios = timing.Sample(tuple(our / their for our, their in zip(ours, beside, strict=True)))
        known = 2 * ratios.error
    exhibit.table(
        [*zip(ours, beside, ratios.values, strict=True)],
        columns=["this suite (tok/s)", f"mlx_lm.benchmark × {counted:.3f} (tok/s)", "ratio"],
        title=f"{READ} tokens read and {WRITTEN} made, in turns",
    )
    off = abs(ratios.median - 1)

    says = exhibit.measured(
        "ours over theirs, median", f"{ratios.median:.3f} ± {known:.3f}", should_be="0.97 to 1.03"
    )

    if off - known <= 0.03 < off + known:
        exhibit.inconclusive(f"the median of {len(ours)} ratios is known to {known:.1%} only")
    assert off <= 0.03, says


def benchmarked():
    """What `mlx_lm.benchmark` prints as its average of tokens generated a second."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        benchmark.main()
    return float(re.findall(r"Averages:.*generation_tps=([0-9.]+)", said.getvalue())[0])
