"""Benchmarks: `pytest --benchmark-only`.

Each round is timed beside a reference of the same kind of work, so that `extra_info` can say which
share of the machine's ability was reached in that very minute. `llm-spec guard` compares
these shares, never the seconds, with the baseline of this class of device in `baselines.json`.
"""

import os
import statistics
from importlib.metadata import version

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from fixtures.plugins.stash import BLAS
from fixtures.texts.passages import passages
from llm_spec.model.accounting import total_bytes
from llm_spec.numerics import timing
from llm_spec.numerics.device import device_name
from llm_spec.observe.trace import trace
from llm_spec.performance import bandwidth, roofline, speed

ROUNDS, FEW = 9, 5  # a pass over hundreds of tokens takes seconds, and varies less than a short one
READ, WRITTEN = 512, 128  # the lengths that llama-bench made customary
PIECE = 16  # tokens of WRITTEN that are timed in one round
LONG = 1024


@pytest.fixture(scope="module")
def streaming():
    """Memory bandwidth, in bytes per second."""
    return bandwidth.streaming()


@pytest.fixture(scope="module")
def multiplying():
    """Matrix throughput, in operations a second."""
    return bandwidth.multiplying(bandwidth.compute_dtype())


@pytest.fixture
def device_class(request):
    """What must be the same for two shares to be comparable."""
    if mx.default_device() == mx.cpu:
        return f"{device_name()}, {os.cpu_count()} cores, {request.config.stash[BLAS]}"
    return device_name()


@pytest.fixture
def timed(benchmark, progress, device_class):
    """Times work round by round, each beside a reference, and notes what the figures mean."""

    def run(work, ideal, nbytes, tokens=None, rounds=ROUNDS, **info):
        """`ideal()` measures how many seconds the work would take at the machine's full speed.

        A call of `work` reads `nbytes`, and reads or writes `tokens` if it has to do with any.
        """
        ideals = []

        def before():
            progress(len(ideals) / (rounds + 1))
            mx.synchronize()  # the last round may have begun a token that nobody asked for
            ideals.append(ideal())

        benchmark.pedantic(work, setup=before, rounds=rounds, warmup_rounds=1)
        benchmark.extra_info |= {
            "device": device_name(),
            "device_class": device_class,
            "dtype": str(bandwidth.compute_dtype()).removeprefix("mlx.core."),
            "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
            "tokens": tokens,
            "bytes": nbytes,
            **info,
        }
        if benchmark.stats is None:  # run once, without timing
            return
        times = benchmark.stats.stats.data
        ideals = ideals[-len(times) :]  # without the warm-up's
        shares = [ideal / took for ideal, took in zip(ideals, times, strict=True)]
        benchmark.extra_info |= {
            "shares": shares,
            "share": statistics.median(shares),
            "ceiling": (tokens or nbytes) / statistics.median(ideals),
            "ceiling_unit": "tokens/s" if tokens else "bytes/s",
        }

    return run


def tokens(subject, count):
    return mx.array(speed.token_ids(count, subject.config["vocab_size"]))


def rounds_for(count):
    return FEW if count >= 256 else ROUNDS


def wait_for(steps, count):
    for _ in range(count):
        next(steps)


@pytest.mark.parametrize("context", [16, LONG])
def test_decode(trained, timed, streaming, context):
    """Writes 128 tokens after a short and a long context, a round for each 16 of them."""
    read = roofline.decode_read(trained.model, context + WRITTEN // 2)
    steps = generate_step(tokens(trained, context), trained.model, max_tokens=-1)
    next(steps)
    timed(
        lambda: wait_for(steps, PIECE),
        ideal=lambda: PIECE * read.total / streaming.rate(),
        nbytes=PIECE * read.total,
        tokens=PIECE,
        rounds=WRITTEN // PIECE,
        context=context,
    )


@pytest.mark.parametrize("count", [16, READ])
def test_prefill(trained, timed, multiplying, count):
    """Reads a prompt up to and with the first token: the time to first token."""
    prompt = tokens(trained, count)
    flops = roofline.prefill_flops(trained.model, count)
    timed(
        lambda: wait_for(generate_step(prompt, trained.model, max_tokens=1), 1),
        ideal=lambda: flops / multiplying.rate(),
        nbytes=roofline.decode_read(trained.model, count).total,
        tokens=count,
        rounds=rounds_for(count),
        flops=flops,
    )


def test_load(trained, timed, streaming):
    """Loads the stored model from files that the operating system has in memory already."""
    if not any(trained.path.glob("model*.safetensors")):
        pytest.skip("this model is not loaded from files")
    stored = total_bytes(trained.packed)
    timed(
        lambda: load_model(trained.path),
        ideal=lambda: stored / streaming.rate(),
        nbytes=stored,
    )


@pytest.mark.parametrize(("count", "verify"), [(16, True), (256, True), (256, False)])
def test_trace(trained, timed, count, verify):
    """Observes one pass; its share is the time of the same pass unobserved, over it."""
    ids = tokens(trained, count)

    def plain():
        mx.eval(trained.model(ids[None], cache=make_prompt_cache(trained.model)))

    plain()
    timed(
        lambda: trace(trained.model, ids, verify=verify),
        ideal=lambda: timing.sample(plain, rounds=1, warm_up=0).median,
        nbytes=roofline.decode_read(trained.model, ids.size).total,
        tokens=ids.size,
        rounds=rounds_for(count),
        verify=verify,
    )


def test_tokenizer(trained, timed):
    """Encodes the passages; its share is the time to encode and decode UTF-8, over it."""
    text = "\n".join(passages().values())

    def plain():
        for _ in range(100):
            text.encode().decode()

    timed(
        lambda: trained.tokenizer.encode(text),
        ideal=lambda: timing.sample(plain, rounds=3).median / 100,
        nbytes=len(text.encode()),
        tokens=len(trained.tokenizer.encode(text)),
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_product(timed, bits):
    """Packed matrices times vectors; its share is the time of the same ones unpacked, over it."""
    dtype = bandwidth.compute_dtype()
    packed = bandwidth.meeting_vectors(4096, 4096, dtype, bits)
    plain = bandwidth.meeting_vectors(4096, 4096, dtype)
    weights = packed.amount / plain.amount * 8 * dtype.size / (bits + 8 * dtype.size / 32)
    timed(
        packed.call,
        ideal=lambda: plain.amount / plain.rate() * weights,
        nbytes=packed.amount,
        bits=bits,
    )
