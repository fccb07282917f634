"""Experiment 7: how fast a model runs, against what the hardware allows."""

import random
from importlib import import_module

import mlx.core as mx
import pytest

from tools import bandwidth, chips, guard, roofline, speed, timing

# The package exports a function of the same name.
generation = import_module("mlx_lm.generate")


ROUNDS = 3


def run_the_clock_slowly(monkeypatch):
    perf_counter = speed.time.perf_counter
    clock = type("Clock", (), {"perf_counter": staticmethod(lambda: perf_counter() / 1000)})
    monkeypatch.setattr(speed, "time", clock)


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
                 "tokens a second", ""],
        title=f"{name} against the machine's own ceilings",
    )  # fmt: skip
    exhibit.add(
        "roofline",
        f"{name} on {bandwidth.device_name()}",
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
    """Each token reads all weights once: bandwidth over those bytes is a ceiling."""
    prompt, products = tokens(trained, 4), bandwidth.multiplying(bandwidth.compute_dtype())
    speed.run(trained.model, prompt, 2)
    rates, bandwidths = beside(
        lambda: speed.run(trained.model, prompt, 8).decode, bandwidth.streaming()
    )
    work = roofline.prefill_flops(trained.model, 1), roofline.decode_read(trained.model, 8).total
    record_roofline(exhibit, "decode", work, bandwidths, products.sample(3), rates.median)

    refute_above_one(exhibit, rates.median * work[1] / bandwidths.best, bandwidths)


@pytest.mark.claim(id="7.2", falsifier=run_the_clock_slowly)
def test_no_prompt_is_read_faster_than_its_products_can_be_computed(trained, exhibit):
    """A prompt's tokens share the reading of the weights; two operations per weight remain."""
    prompt, streaming = tokens(trained, 64), bandwidth.streaming()
    speed.run(trained.model, prompt, 2)
    rates, products = beside(
        lambda: speed.run(trained.model, prompt, 2).prefill,
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
    """Both watch the same generation. mlx-lm divides n tokens by the time of the last n - 1."""
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
        columns=["decode rate", "tokens a second"],
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


def noisy(rng, noise, slower=1.0, rounds=15):
    """Shares as a machine with `noise` measures them, when work takes `slower` times as long."""
    return [rng.gauss(1, noise) / slower for _ in range(rounds)]


def see_only_halving(monkeypatch):
    monkeypatch.setattr(guard, "BOUND", 0.5)


@pytest.mark.claim(id="7.8", falsifier=see_only_halving)
def test_the_guard_flags_a_fifth_more_time_and_no_noise(exhibit):
    """100 repeats at 2 % noise, unchanged and slowed down; at 15 % noise it must not decide."""
    rng = random.Random(0)
    baseline = noisy(rng, 0.02)
    cases = {
        "unchanged": lambda: guard.judge(baseline, noisy(rng, 0.02)),
        "20 % more time": lambda: guard.judge(baseline, noisy(rng, 0.02, slower=1.2)),
        "too noisy": lambda: guard.judge(baseline, noisy(rng, 0.15)),
    }
    found = {name: [judge().finding for _ in range(100)] for name, judge in cases.items()}
    findings = ("steady", "slower", "inconclusive")
    exhibit.table(
        [[name, *(seen.count(finding) for finding in findings)] for name, seen in found.items()],
        columns=["", *findings],
        title="100 repeats each",
    )
    flags = {name: seen.count("slower") for name, seen in found.items()}

    says = exhibit.measured(
        "flagged of 100", [flags["unchanged"], flags["20 % more time"]], should_be=[0, 100]
    )

    assert (flags["unchanged"], flags["20 % more time"]) == (0, 100), says
    assert found["too noisy"].count("inconclusive") >= 90, says


def hold_nothing_up(monkeypatch):
    monkeypatch.setattr(f"{__name__}.PLANTED", 1.0)


PLANTED = 1.2


def held_up(work, slower):
    """`work`, after which time is wasted until it took `slower` times as long."""

    def slow():
        start = speed.time.perf_counter()
        work()
        end = start + slower * (speed.time.perf_counter() - start)
        while speed.time.perf_counter() < end:
            pass

    return slow


@pytest.mark.slow
@pytest.mark.claim(id="7.9", falsifier=hold_nothing_up)
def test_the_guard_flags_a_fifth_more_time_on_this_machine(trained, exhibit):
    """Ten repeats unchanged, ten with every pass held up; each round beside a matrix product."""
    prompt, matrix = mx.array([tokens(trained, 8)]), mx.ones((1024, 1024))
    mx.eval(prompt, matrix)

    def passes():
        mx.eval(trained.model(prompt))

    def shares(slower=1.0):
        works = (held_up(passes, slower), lambda: mx.eval(matrix @ matrix))
        rounds = [[timing.sample(w, 3, warm_up=0).median for w in works] for _ in range(15)]
        return [beside / took for took, beside in rounds]

    passes()
    baseline = shares()
    unchanged = [guard.judge(baseline, shares()) for _ in range(10)]
    planted = [guard.judge(baseline, shares(PLANTED)) for _ in range(10)]
    exhibit.table(
        [[n, str(a), str(b)] for n, (a, b) in enumerate(zip(unchanged, planted, strict=True), 1)],
        columns=["repeat", "unchanged", f"{PLANTED} times the time"],
        title="what the guard says",
    )
    if any(judgement.finding == "inconclusive" for judgement in unchanged + planted):
        exhibit.inconclusive("this machine is too noisy to tell 20 % from nothing")
    flags = [sum(j.finding == "slower" for j in each) for each in (unchanged, planted)]

    says = exhibit.measured("flagged of ten, unchanged and planted", flags, should_be=[0, 10])

    assert flags == [0, 10], says
