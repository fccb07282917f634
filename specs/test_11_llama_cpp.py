"""Experiment 11: llama.cpp on the GGUF file that the embedded model was converted from.

A third implementation, and the one that the file was written for. Needs the extra `llama-cpp`
(llama-cpp-python) and, once, the file itself (98 MB); without them these claims are not run.
"""

import math

import numpy as np
import pytest

from fixtures.oracle import llama_cpp as given
from fixtures.texts.passages import passages
from fixtures.texts.prompts import PREDICTIONS
from llm_spec.model import tokens
from llm_spec.model.float32 import float32_copy
from llm_spec.numerics.distances import distance, worst
from llm_spec.observe.trace import trace
from llm_spec.oracle import llama_cpp as oracle

TEXTS = (*PREDICTIONS, passages("prose")["prose"])  # four short prompts and one of a page
LOGITS = 5e-4
ALIKE = 2  # two gaps of one cause differ by less than this factor


def logits_of(model, texts):
    return [np.asarray(trace(model, ids, verify=False).logits, np.float32) for ids in texts]


def largest(ours, theirs):
    return worst(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def relative(ours, theirs):
    return worst(distance(a, b) for a, b in zip(ours, theirs, strict=True))


def typical(ours, theirs):
    """The median distance of a row: of all rows, for the largest is one row's luck."""
    rows = [[distance(a[None], b[None]) for a, b in zip(x, y, strict=True)]
            for x, y in zip(ours, theirs, strict=True)]  # fmt: skip
    return float(np.median(np.concatenate(rows)))


def first_choices(ours, theirs):
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(ours, theirs, strict=True)]
    return float(np.concatenate(same).mean())


def slow_the_rotation_down(embedded, monkeypatch):
    for layer in embedded.model.layers:
        monkeypatch.setattr(layer.self_attn.rope, "base", layer.self_attn.rope.base / 2)


@pytest.mark.claim(id="11.14", falsifier=slow_the_rotation_down)
def test_llama_cpp_computes_the_same_logits_in_float32(embedded, llama_cpp, exhibit):
    """llama.cpp unpacks its own file. Its usual KV cache of float16 is shown beside."""
    texts = [tokens.encode(embedded.tokenizer, text) for text in TEXTS]
    full, half = llama_cpp.unpacked(texts, [oracle.FLOAT32, oracle.FLOAT16])
    ours = logits_of(float32_copy(embedded.model), texts)
    exhibit.table(
        [[cache, largest(ours, theirs), relative(ours, theirs), first_choices(ours, theirs)]
         for cache, theirs in (("float32", full), ("float16", half))],
        columns=["KV cache", "logits", "relative to a row's norm", "top-1 agreement"],
        title="largest differences, mlx-lm against llama.cpp, weights in float32",
    )  # fmt: skip
    found = largest(ours, full)
    says = exhibit.measured("largest difference of logits", found, should_be=LOGITS)

    assert max(map(len, texts)) >= 150, "too short a text to tell positions apart"
    assert first_choices(ours, full) == 1, says
    assert found <= LOGITS, says


def leave_activations_as_they_are(monkeypatch):
    monkeypatch.setattr(given, "_rounded", lambda x: x)


@pytest.mark.claim(id="11.15", falsifier=leave_activations_as_they_are)
def test_the_gap_of_the_packed_file_is_what_rounding_activations_costs(
    embedded, llama_cpp, exhibit
):
    """llama.cpp multiplies packed weights with activations of 8 bits, one scale per 32 values. Two
    roundings of the same size part at the first layer, so sizes are compared, not logits."""
    texts = [tokens.encode(embedded.tokenizer, text) for text in TEXTS]
    packed = llama_cpp.packed(texts)
    model = float32_copy(embedded.model)
    plain = logits_of(model, texts)
    with given.rounded_activations():
        rounded = logits_of(model, texts)
    exhibit.table(
        [[whose, largest(plain, others), relative(plain, others), first_choices(plain, others)]
         for whose, others in (("llama.cpp on the packed file", packed),
                               ("mlx-lm with activations of 8 bits", rounded))],
        columns=["computed by", "logits", "relative to a row's norm", "top-1 agreement"],
        title="largest differences from mlx-lm in float32",
    )  # fmt: skip
    gap, cost = typical(plain, packed), typical(plain, rounded)
    ratio = gap / cost if cost else math.inf
    says = exhibit.measured(
        "gap of the packed file over what rounding costs", ratio, should_be="0.5 to 2"
    )

    assert gap > 1e-3, f"gap = {gap:.1e}: nothing to explain"
    assert 1 / ALIKE <= ratio <= ALIKE, f"{says} [{gap:.1e} and {cost:.1e}]"


def split_at_no_digit(embedded, monkeypatch):
    split = tokens.encode
    monkeypatch.setattr(tokens, "encode", lambda it, text: split(it, text.replace("the", "th e")))


@pytest.mark.claim(id="11.16", falsifier=split_at_no_digit)
def test_llama_cpp_splits_text_into_the_same_tokens(embedded, llama_cpp, exhibit):
    """300 pieces of prose, code, dialogue and other scripts, cut anywhere."""
    texts = given.varied_strings()
    theirs = llama_cpp.token_ids(texts)
    ours = [tokens.encode(embedded.tokenizer, text) for text in texts]
    other = [
        [text, a, b] for text, a, b in zip(texts, ours, theirs, strict=True) if list(a) != list(b)
    ]
    exhibit.table(
        [[repr(text)[:60], len(a), len(b)] for text, a, b in other[:10]] or [["none", 0, 0]],
        columns=["text", "tokens here", "tokens of llama.cpp"], title="texts that differ",
    )  # fmt: skip
    same = len(texts) - len(other)
    says = exhibit.measured("texts with the same token ids", same, should_be=len(texts))

    assert len(set(texts)) >= given.STRINGS - 10, "too few different texts"
    assert not other, says
