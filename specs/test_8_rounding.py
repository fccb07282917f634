"""Experiment 8: how far quantised weights are rounded."""

import mlx.core as mx
import numpy as np
import pytest

from fixtures.doubles.quantising import quantise_into
from llm_spec.model import quantisation
from llm_spec.model.quantisation import AFFINE
from llm_spec.numerics.distances import worst


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
