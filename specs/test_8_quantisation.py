"""Experiment 8: how quantised weights are stored, and how far they are rounded."""

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from llm_spec.model import quantisation
from llm_spec.model.quantisation import AFFINE, LADDER
from llm_spec.numerics import units
from llm_spec.numerics.distances import worst

# ── What is stored ────────────────────────────────────────────────────────────────────────────


def packed_matrices(subject):
    """Every quantised matrix of the model as stored, by name."""
    found = {name: m for name, m in subject.packed.named_modules() if "scales" in m}
    if not found:
        pytest.skip("this model is not stored quantised")
    return found


def a_matrix(subject):
    """The first matrix of the first layer, (rows, columns) in float32."""
    modules = (m for _, m in subject.packed.layers[0].named_modules() if "weight" in m)
    module = next(m for m in modules if m.weight.ndim == 2)
    if "scales" not in module:
        return module.weight.astype(mx.float32)
    scales, biases = module.scales, module.get("biases")
    if biases is not None:  # affine; the microscaling modes keep theirs in 8 bits
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    how = module.group_size, module.bits, module.mode
    return mx.dequantize(module.weight, scales, biases, *how).astype(mx.float32)


def only(module):
    """A model that consists of one module."""
    return nn.Sequential(module)


def leave_a_matrix_unpacked(trained):
    layer = nn.QuantizedLinear(64, 64, bits=4)
    layer.weight = mx.zeros((64, 64), dtype=mx.uint32)
    return {"trained": trained.replacing(packed=only(layer))}


@pytest.mark.claim(id="8.1", falsifier=leave_a_matrix_unpacked)
def test_a_quantised_matrix_is_stored_as_packed_words(trained, exhibit):
    """A 32-bit word holds eight 4-bit weights, so the stored matrix is an eighth as wide."""
    matrices = packed_matrices(trained)
    name, sample = next(iter(matrices.items()))
    exhibit.table(
        [[part, str(a.dtype), "×".join(map(str, a.shape)), units.show_bytes(a.nbytes)]
         for part in ("weight", "scales", "biases") for a in [sample[part]]],
        columns=["array", "dtype", "shape", "size"],
        title=f"{name} at {sample.bits} bits in groups of {sample.group_size}",
    )  # fmt: skip
    exhibit.text("\n".join(map(str, sample.weight[:3, :5].tolist())), title="its first words")
    dtypes = {str(m.weight.dtype) for m in matrices.values()}
    widths = {
        32 * m.weight.shape[-1] / (m.bits * m.scales.shape[-1] * m.group_size)
        for m in matrices.values()
    }

    says = exhibit.measured(
        "dtype of the words; bits of the words over bits of the weights",
        (sorted(dtypes), sorted(widths)), should_be=(["mlx.core.uint32"], [1.0]),
    )  # fmt: skip

    assert (dtypes, widths) == ({"mlx.core.uint32"}, {1.0}), says


def use_groups_of_32(shape):
    layer = nn.QuantizedLinear(64, 64, group_size=32, bits=4)
    layer.set_dtype(mx.bfloat16)
    return {"shape": shape.replacing(packed=only(layer))}


@pytest.mark.claim(id="8.2", falsifier=use_groups_of_32)
def test_four_bit_weights_take_four_and_a_half_bits(shape, exhibit):
    """64 weights share a scale and a bias of 16 bits each: 4 + 32/64 bits per weight."""
    arrays = [(m, (m.weight, m.scales, m.biases)) for m in packed_matrices(shape).values()]
    stored = 8 * sum(a.nbytes for _, parts in arrays for a in parts)
    weights = sum(m.weight.size * 32 // m.bits for m, _ in arrays)

    says = exhibit.measured("bits stored per weight", stored / weights, should_be=4.5)

    assert stored / weights == 4.5, says


def quantise_into(monkeypatch, change):
    """Let `mx.quantize` hand out `change(words, scales, …)` instead of what it makes."""
    quantize = mx.quantize
    monkeypatch.setattr(mx, "quantize", lambda *given, **how: change(*quantize(*given, **how)))


def store_scales_in_float32(monkeypatch):
    def widened(words, *others):
        return words, *(each.astype(mx.float32) for each in others)

    quantise_into(monkeypatch, widened)


@pytest.mark.claim(id="8.3", falsifier=store_scales_in_float32)
def test_every_scheme_stores_the_bits_that_it_is_counted_with(exhibit):
    """Bits of the arrays that MLX makes of a bfloat16 matrix, divided by its weights."""
    matrix = mx.random.normal((8, 384), key=mx.random.key(0)).astype(mx.bfloat16)
    stored = {}
    for scheme in LADDER[2:]:
        arrays = mx.quantize(matrix, scheme.group_size, scheme.bits, scheme.mode)
        stored[scheme] = 8 * sum(array.nbytes for array in arrays) / matrix.size
    exhibit.bars(
        {scheme.name: bits for scheme, bits in stored.items()},
        title="storage per weight", axis="bits",
    )  # fmt: skip
    wrong = {s.name: bits for s, bits in stored.items() if bits != s.bits_per_weight}

    says = exhibit.measured("schemes counted wrongly", wrong or 0, should_be=0)

    assert len(stored) == 9, f"{len(stored)} schemes were stored, but should be 9"
    assert not wrong, says


def leave_out_the_biases(monkeypatch):
    dequantize = mx.dequantize

    def without(words, scales, biases, *how):
        return dequantize(words, scales, mx.zeros_like(biases), *how)

    monkeypatch.setattr(mx, "dequantize", without)


@pytest.mark.claim(id="8.4", falsifier=leave_out_the_biases)
def test_a_weight_is_its_code_times_the_scale_plus_the_bias(trained, exhibit):
    """Codes are read from the words bit by bit here, and compared with mx.dequantize."""
    matrix = a_matrix(trained)
    wrong = {}
    for scheme in AFFINE:
        words, scales, biases = mx.quantize(matrix, 64, scheme.bits)
        codes = quantisation.unpack(words, scheme.bits).reshape(len(matrix), -1, 64)
        product = codes * np.array(scales, dtype=np.float64)[..., None]
        ours = product + np.array(biases, dtype=np.float64)[..., None]
        theirs = np.array(mx.dequantize(words, scales, biases, 64, scheme.bits))
        rounding = (np.abs(product) + np.abs(ours)) * 2**-24  # of a float32 product and sum
        wrong[scheme.name] = int((np.abs(ours - theirs.reshape(ours.shape)) > rounding).sum())
    exhibit.bars(wrong, title="weights that mx.dequantize unpacks differently", axis="weights")

    says = exhibit.measured(
        "weights that mx.dequantize unpacks differently", sum(wrong.values()), should_be=0
    )

    assert sum(wrong.values()) == 0, says


WORDS = 2**14  # that are compared: of the 80 million of a large embedding many repeat by chance


def some_rows(words):
    """Rows of a packed matrix from all over it, with about `WORDS` words."""
    return words[:: max(1, words.size // WORDS)]


def repeats_in(words):
    return 1 - len(np.unique(np.array(words))) / words.size


def store_one_value(trained):
    layer = nn.QuantizedLinear(64, 64, bits=4)
    layer.weight = mx.zeros_like(layer.weight)
    return {"trained": trained.replacing(packed=only(layer))}


@pytest.mark.claim(id="8.5", falsifier=store_one_value)
def test_the_printed_words_hardly_repeat_and_only_a_group_has_few_values(trained, exhibit):
    """A word of eight codes has 16^8 possible values; a weight of a group has 16."""
    module = next((m for m in packed_matrices(trained).values() if m.bits == 4), None)
    if module is None:
        pytest.skip("this model stores no matrix at 4 bits")
    words = some_rows(module.weight)
    repeats = repeats_in(words)
    codes = np.sort(quantisation.unpack(words, 4).reshape(-1, module.group_size))
    levels = 1 + (np.diff(codes) > 0).sum(-1)  # (groups,)
    exhibit.bars(
        {str(n): int((levels == n).sum()) for n in range(1, 17)},
        title="groups by number of distinct values", axis="groups",
    )  # fmt: skip

    says = exhibit.measured(
        "share of repeated words, most values in a group",
        (round(repeats, 4), int(levels.max())), should_be="under 0.1 and at most 16",
    )  # fmt: skip

    assert repeats < 0.1, says
    assert levels.max() <= 16, says


def compare_every_word(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WORDS", 2**40)


@pytest.mark.claim(id="0.164", falsifier=compare_every_word)
def test_words_that_repeat_by_chance_in_a_large_matrix_refute_nothing(exhibit):
    """Two million words of random weights with long tails, as embeddings have them."""
    normal = mx.random.normal((2**13, 2048), key=mx.random.key(0))
    words = mx.quantize(normal * mx.abs(normal), 64, 4)[0]
    compared = some_rows(words)
    of_all, of_some = repeats_in(words), repeats_in(compared)
    exhibit.table(
        [["all", words.size, of_all], ["compared", compared.size, of_some]],
        columns=["words", "number", "share of repeats"], title="a large matrix at 4 bits",
    )  # fmt: skip

    says = exhibit.measured("share of repeats that claim 8.5 sees", of_some, "under 0.1")

    assert of_all > 0.1, f"of all words {of_all:.2f} repeat, but should be over 0.1"
    assert of_some < 0.1, says


# ── How far it rounds ─────────────────────────────────────────────────────────────────────────


def start_the_grid_half_a_step_late(monkeypatch):
    quantise_into(monkeypatch, lambda words, scales, biases: (words, scales, biases + scales / 2))


@pytest.mark.claim(id="8.6", falsifier=start_the_grid_half_a_step_late)
def test_rounding_errs_by_half_a_step_inside_the_grid_and_one_beyond(trained, exhibit):
    """The grid is shifted so that 0 lies on it; weights beyond its far end are clipped."""
    matrix = a_matrix(trained)
    found = {scheme: quantisation.affine_rounding(matrix, scheme) for scheme in AFFINE}
    exhibit.table(
        [[s.name, r.levels, r.inside, r.beyond, 100 * r.clipped] for s, r in found.items()],
        columns=["stored at", "values in a group", "error inside (steps)", "error beyond (steps)",
                 "weights beyond (%)"],
        title="rounding of one real matrix, groups of 64",
    )  # fmt: skip
    exhibit.add(
        "histogram", "rounding error of the weights", x_axis="error (steps)",
        edges=[n / 20 for n in range(21)], series={s.name: r.spread for s, r in found.items()},
    )  # fmt: skip
    inside = worst(r.inside - r.slack for r in found.values())
    beyond = worst(r.beyond - r.slack for r in found.values())

    says = exhibit.measured(
        "largest errors in steps, float32 rounding subtracted", f"{inside:.4f} and {beyond:.4f}",
        should_be="at most 0.5 inside the grid and 1 beyond it",
    )  # fmt: skip

    assert all(r.levels <= 2**scheme.bits for scheme, r in found.items()), found
    assert worst([inside, beyond - 0.5]) <= 0.5, says


def span_the_smallest_to_the_largest(monkeypatch):
    quantize = mx.quantize

    def textbook(weight, group_size, bits, mode):
        words, _, _ = quantize(weight, group_size, bits, mode)
        groups = weight.reshape(len(weight), -1, group_size)
        low, high = groups.min(-1), groups.max(-1)
        return words, (high - low) / (2**bits - 1), low

    monkeypatch.setattr(mx, "quantize", textbook)


@pytest.mark.claim(id="8.7", falsifier=span_the_smallest_to_the_largest)
def test_the_grid_of_a_group_with_both_signs_holds_zero(trained, exhibit):
    """The price is the clipping of claim 8.6; a grid from smallest to largest weight clips none."""
    matrix = a_matrix(trained)
    found = {scheme: quantisation.affine_rounding(matrix, scheme) for scheme in AFFINE}
    exhibit.bars(
        {s.name: r.zero for s, r in found.items()},
        title="largest distance from 0 to the nearest grid point", axis="steps",
    )  # fmt: skip
    farthest = worst(r.zero - r.slack for r in found.values())

    says = exhibit.measured("distance from 0 to the grid, in steps", max(farthest, 0), should_be=0)

    assert farthest <= 0, says


def shift_the_grid(monkeypatch):
    quantise_into(monkeypatch, lambda words, scales, biases: (words, scales * 1.001, biases))


@pytest.mark.claim(id="8.8", falsifier=shift_the_grid)
def test_only_a_full_grid_that_holds_zero_survives_a_second_quantisation(trained, exhibit):
    """Real codes on a grid from -8 to 7 come back to the bit; a model that another rule stored at
    4 bits does not, for its grids do not hold 0."""
    codes = np.array(quantisation.unpack(mx.quantize(a_matrix(trained), 64, 4)[0], 4))
    codes = codes.reshape(-1, 64)
    codes[:, :2] = 0, 15  # both ends are in use
    on_grid = mx.array((codes.astype(np.float32) - 8) / 128)
    kept = mx.dequantize(*mx.quantize(on_grid, 64, 4), 64, 4)
    moved = float(mx.abs(kept - on_grid).max())
    matrix = a_matrix(trained)
    again = mx.dequantize(*mx.quantize(matrix, 32, 4), 32, 4)
    lost = float(mx.linalg.norm(again - matrix) / mx.linalg.norm(matrix))
    exhibit.bars(
        {"full grid that holds 0": moved, "the model as it is stored": lost},
        title="loss of 4 bits on weights with only 16 values per group",
        axis="share of the norm",
    )  # fmt: skip

    says = exhibit.measured("largest change of a weight on a full grid", moved, should_be=0)

    assert len(np.unique(codes)) == 16, (
        f"distinct codes = {len(np.unique(codes))}, but should be 16"
    )
    assert moved == 0, says
