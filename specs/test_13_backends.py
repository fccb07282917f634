"""Experiment 13: do MLX's backends agree? This GPU against the CPU, and both against float64."""

import mlx.core as mx
import numpy as np
import pytest

from fixtures.doubles.instruments import Waiting
from fixtures.planted import PROMPT
from fixtures.synthetic.architectures import build_architecture
from llm_spec.numerics import backends, device
from llm_spec.numerics.distances import distance, worst
from llm_spec.numerics.tolerances import reordered
from llm_spec.performance import speed

POSITIONS = (1, 1_000, 32_768, 131_072, 1_048_576)
BASE, WIDTH = 10_000.0, 128
MODES = ("affine", "mxfp4", "nvfp4", "mxfp8")
ROUNDED = ("normal", "gumbel")
MODELS = ("llama", "qwen3", "mamba2")


def differ(one, other):
    """How many numbers of two arrays are not the same bits; zeros of either sign are."""
    return int((one != other).sum())


def replace_on_the_gpu(monkeypatch, module, name, replacement):
    """`module.name` is `replacement` while the GPU computes, and itself on the CPU."""
    on = backends.on

    def elsewhere(where, work):
        with pytest.MonkeyPatch.context() as patch:
            if where != mx.cpu:
                patch.setattr(module, name, replacement)
            return on(where, work)

    monkeypatch.setattr(backends, "on", elsewhere)


def give_the_gpu_another_key(monkeypatch):
    key = mx.random.key
    replace_on_the_gpu(monkeypatch, mx.random, "key", lambda seed: key(seed + 1))


@pytest.mark.claim(id="13.1", falsifier=give_the_gpu_another_key)
def test_a_key_gives_the_same_random_numbers_on_the_gpu_and_the_cpu(gpu, exhibit):
    """Four kinds of random numbers, bit for bit. Those that take a logarithm or an inverse error
    function differ in the last bits, and are shown."""
    draws = {
        "normal": lambda key: mx.random.normal((4096,), key=key),
        "uniform": lambda key: mx.random.uniform(shape=(4096,), key=key),
        "bernoulli": lambda key: mx.random.bernoulli(0.3, (4096,), key=key),
        "permutation": lambda key: mx.random.permutation(4096, key=key),
        "categorical": lambda key: mx.random.categorical(mx.zeros((512, 64)), key=key),
        "gumbel": lambda key: mx.random.gumbel((4096,), key=key),
    }
    apart = {}
    for name, draw in draws.items():
        (here,), (there,) = (
            backends.on(d, lambda draw=draw: [draw(mx.random.key(7))]) for d in (gpu, mx.cpu)
        )
        apart[name] = differ(here, there)
    exhibit.table(
        [[name, count] for name, count in apart.items()],
        columns=["random numbers", "that differ"], title=f"{device.device_name()} and the CPU",
    )  # fmt: skip
    wrong = {name: count for name, count in apart.items() if count and name not in ROUNDED}

    says = exhibit.measured("kinds of random numbers that differ", wrong, should_be={})

    assert wrong == {}, says


def pack_something_else(monkeypatch):
    pack = mx.quantize
    replace_on_the_gpu(monkeypatch, mx, "quantize", lambda w, **how: pack(w * 1.1, **how))


@pytest.mark.claim(id="13.2", falsifier=pack_something_else)
def test_packing_on_the_gpu_stores_the_values_that_the_cpu_stores(gpu, exhibit):
    """Each mode of mx.quantize at its defaults; unpacked on the CPU, so zeros of either sign are
    the same value."""
    weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    shares = {}
    for mode in MODES:
        unpacked = []
        for where in (gpu, mx.cpu):
            packed = backends.on(where, lambda m=mode: mx.quantize(mx.array(weights), mode=m))
            parts = [mx.array(part) for part in packed]
            unpacked += backends.on(mx.cpu, lambda p=parts, m=mode: [mx.dequantize(*p, mode=m)])
        shares[mode] = differ(*unpacked) / weights.size
    exhibit.bars(shares, title="values stored otherwise", axis="share of the numbers")

    says = exhibit.measured("share of values stored otherwise", worst(shares.values()), should_be=0)

    assert worst(shares.values()) == 0, says


def unpack_something_else(monkeypatch):
    unpack = mx.dequantize
    replace_on_the_gpu(monkeypatch, mx, "dequantize", lambda *parts: unpack(*parts) * 1.001)


@pytest.mark.claim(id="13.3", falsifier=unpack_something_else)
def test_unpacking_on_the_gpu_differs_by_the_rounding_of_one_sum_at_most(gpu, exhibit):
    """A product and a sum round twice on the CPU; fused into one operation, once."""
    weights = mx.array(np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32))
    parts = backends.on(mx.cpu, lambda: mx.quantize(weights))
    packed, scales, biases = map(mx.array, parts)
    (here,), (there,) = (
        backends.on(d, lambda: [mx.dequantize(packed, scales, biases)]) for d in (gpu, mx.cpu)
    )
    # (rows, groups) → (rows, width): the largest product of a group, 15 steps, and its bias
    largest = np.repeat(15 * np.abs(np.array(scales)) + np.abs(np.array(biases)), 64, axis=-1)
    off = distance(here / largest, there / largest) / 2**-23

    says = exhibit.measured(
        "units of rounding between the values, float32, 4 bits", off, should_be="at most 1"
    )

    assert off <= 1, says


def turn_with_another_base(monkeypatch):
    rope = mx.fast.rope
    monkeypatch.setattr(
        mx.fast, "rope", lambda x, width, base, **how: rope(x, width, base=1.01 * base, **how)
    )


@pytest.mark.claim(id="13.4", falsifier=turn_with_another_base)
def test_a_rotary_embedding_is_off_by_one_rounding_of_its_angle_at_most(exhibit):
    """Unit vectors, base 10,000, against float64: the angle is a float32 product, so its error
    grows with the position. A token at a million turns by up to a tenth of a radian too far."""
    vectors = np.random.default_rng(0).normal(size=(16, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    bounds = [2**-23 * position + 2**-21 for position in POSITIONS]
    off = []
    for position in POSITIONS:
        x = mx.array(vectors.astype(np.float32))[:, None, None]  # (rows, heads, tokens, width)
        turned = mx.fast.rope(
            x, WIDTH, base=BASE, traditional=False, scale=1.0, offset=position
        )  # fmt: skip
        missed = np.array(turned)[:, 0, 0] - backends.rotated(vectors, position, BASE)
        off.append(worst(np.linalg.norm(missed, axis=-1)))
    exhibit.curve(
        POSITIONS, {device.device_name(): off, "one rounding of the angle": bounds},
        title="rotary embedding against float64", x_axis="position", y_axis="distance",
    )  # fmt: skip
    shares = [missed / bound for missed, bound in zip(off, bounds, strict=True)]

    says = exhibit.measured(
        f"distance over the bound, at {POSITIONS[int(np.argmax(shares))]:,}", worst(shares),
        should_be="at most 1",
    )  # fmt: skip

    assert worst(shares) <= 1, says


def add_up_in_half_precision(monkeypatch):
    def add_up(x):
        total = mx.zeros((), x.dtype)
        for each in x.reshape(256, -1).astype(mx.float32).sum(axis=-1).astype(x.dtype):
            total = total + each
        return total

    monkeypatch.setattr(mx, "sum", add_up)


@pytest.mark.claim(id="13.5", falsifier=add_up_in_half_precision)
def test_a_sum_of_half_precision_numbers_is_rounded_twice_at_most(exhibit):
    """65,536 numbers, added in wider numbers. A GPU adds them in two passes, and may round what
    stands between them."""
    off = {}
    for dtype, eps in ((mx.float16, 2**-10), (mx.bfloat16, 2**-7)):
        scale = 2**-4  # the total stays below the largest float16
        x = (mx.random.uniform(shape=(65_536,), key=mx.random.key(3)) * scale).astype(dtype)
        exact = float(np.array(x.astype(mx.float32)).astype(np.float64).sum())
        off[str(dtype).rpartition(".")[2]] = abs(float(mx.sum(x)) / exact - 1) / eps
    exhibit.bars(off, title=f"sums on {device.device_name()}", axis="units of rounding")

    says = exhibit.measured("units of rounding of a sum", worst(off.values()), "at most 1")

    assert worst(off.values()) <= 1, says


def scale_on_the_gpu(monkeypatch):
    on = backends.on
    monkeypatch.setattr(
        backends, "on",
        lambda where, work: [x * (1 + 1e-3 * (where != mx.cpu)) for x in on(where, work)],
    )  # fmt: skip


@pytest.mark.claim(id="13.6", falsifier=scale_on_the_gpu)
def test_a_model_on_the_gpu_predicts_what_it_predicts_on_the_cpu(gpu, exhibit):
    """Tiny models in float32: the same sums in another order."""
    rows = []
    for name in MODELS:
        model, _ = build_architecture(name)
        (here,), (there,) = (
            backends.on(d, lambda model=model: [model(mx.array([list(PROMPT)]))[0]])
            for d in (gpu, mx.cpu)
        )
        rows.append([name, distance(here, there), reordered(mx.float32, len(model.layers))])
    exhibit.table(rows, ["model", "distance of logits", "bound"], title="GPU and CPU")
    shares = [off / bound for _, off, bound in rows]

    says = exhibit.measured("distance of logits over its bound", worst(shares), "at most 1")

    assert worst(shares) <= 1, says


def count_the_first_use(monkeypatch):
    measure = speed.measure_speed
    monkeypatch.setattr(
        speed, "measure_speed", lambda *given, **how: measure(*given, **(how | {"warm_up": 0}))
    )


@pytest.mark.claim(id="13.7", falsifier=count_the_first_use)
def test_what_compiles_at_first_use_is_not_in_the_time_to_the_first_token(exhibit):
    """A model whose first call takes 0.4 s longer, as kernels that are compiled do."""
    model, _ = build_architecture("llama")
    waits = iter([0.4])
    compiling = Waiting(model, lambda known, took: next(waits, 0.0))

    timed = speed.measure_speed(compiling, list(PROMPT[:8]), 4, rounds=3)
    slowest = max(timed.first_token.values)
    exhibit.table(
        [["first use", 1e3 * timed.first_use], ["slowest of three", 1e3 * slowest]],
        columns=["", "milliseconds to the first token"], title="a first call that compiles",
    )  # fmt: skip

    says = exhibit.measured(
        "seconds to the first token, slowest of three", slowest, should_be="less than 0.3"
    )

    assert slowest < 0.3, says
    assert timed.first_use >= 0.4, "the first use should take 0.4 s at least"
