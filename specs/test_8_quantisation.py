"""Experiment 8: how quantised weights are stored."""

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from fixtures.doubles.quantising import quantise_into
from llm_spec.model import quantisation
from llm_spec.model.quantisation import LADDER
from llm_spec.numerics import units


def packed_matrices(subject):
    """Every quantised matrix of the model as stored, by name."""
    found = {name: m for name, m in subject.packed.named_modules() if "scales" in m}
    if not found:
        pytest.skip("this model is not stored quantised")
    return found


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


WORDS = 2**14  # that are compared: of the 80 million of a large embedding many repeat by chance


def some_rows(words):
    """Rows of a packed matrix from all over it, with about `WORDS` words."""
    return words[:: max(1, words.size // WORDS)]


def repeats_in(words):
    ordered = np.sort(np.array(words), axis=None)  # ten times as fast as np.unique
    return int((ordered[1:] == ordered[:-1]).sum()) / words.size


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
