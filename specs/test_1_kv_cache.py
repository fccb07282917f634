"""Experiment 1: the KV cache: what it stores, and that it changes no logit."""

import numpy as np
import pytest
from mlx_lm.models import cache as caches

from fixtures.doubles.instruments import store_eight_bits
from fixtures.models.law_verdict import hold_to_law
from fixtures.synthetic.filled_caches import (
    IDS,
    allocated,
    filled,
    held,
    plain_cache,
    quantised_cache,
)
from llm_spec.laws.execution import logits_of
from llm_spec.laws.model.cache import (
    cached_is_uncached,
    distances_by_cut,
    saved_cache_continues,
    trimmed_is_never_fed,
)
from llm_spec.model.declare import declare
from llm_spec.numerics.units import show_bytes, show_size

CONTEXT = 2048  # tokens, for which the plan reckons 2 GB


def forget_the_first_token(monkeypatch, models):
    update = caches.KVCache.update_and_fetch

    def forgetful(self, keys, values):
        known = self.offset
        keys, values = update(self, keys, values)
        return (keys[..., 1:, :], values[..., 1:, :]) if known else (keys, values)

    monkeypatch.setattr(caches.KVCache, "update_and_fetch", forgetful)
    return {"subject": models["tiny-llama"]}  # a broken law is tried again, which takes a while


@pytest.mark.claim(id="1.20", falsifier=forget_the_first_token)
def test_logits_with_a_cache_are_those_without_however_the_prompt_is_cut(subject, exhibit):
    """The law of claim 9.21; the table shows the worst token's distance relative to its norm."""
    exhibit.table(
        list(distances_by_cut(subject.case).items()),
        columns=["fed", "distance / norm"], title="cached against uncached",
    )  # fmt: skip

    hold_to_law(subject, cached_is_uncached, exhibit)


def trim_one_too_few(monkeypatch):
    trim = caches.KVCache.trim
    monkeypatch.setattr(caches.KVCache, "trim", lambda self, n: trim(self, n - 1) + 1)


@pytest.mark.claim(id="1.21", falsifier=trim_one_too_few)
def test_a_rewound_cache_goes_on_as_if_the_trimmed_tokens_had_never_been_fed(subject, exhibit):
    """The law of claim 9.23, here bit-identical: the trimmed tokens and those fed next differ."""
    model, shared, first, second = subject.model, IDS[:4], IDS[4:7], IDS[7:10]
    fresh, rewound = plain_cache(model), plain_cache(model)
    logits_of(model, shared, fresh)
    logits_of(model, shared, rewound)
    other = logits_of(model, first, rewound)
    trimmed = caches.trim_prompt_cache(rewound, len(first))
    expected, seen = logits_of(model, second, fresh), logits_of(model, second, rewound)
    exhibit.table(
        [["trimmed tokens", trimmed], ["cache length", rewound[0].size()],
         ["largest difference of logits", np.abs(seen - expected).max()]],
        columns=["", "after trimming"],
        title=f"{len(first)} of {len(shared + first)} tokens trimmed",
    )  # fmt: skip

    hold_to_law(subject, trimmed_is_never_fed, exhibit)

    same = np.array_equal(seen, expected)
    says = exhibit.measured("logits bit-identical to those of a fresh cache", same, should_be=True)
    assert not np.array_equal(seen, other), "other tokens have the same logits, but should differ"
    assert same, says


def turn_back_anyway(monkeypatch):
    monkeypatch.setattr(caches.RotatingKVCache, "is_trimmable", lambda self: True)


@pytest.mark.claim(id="1.22", falsifier=turn_back_anyway)
def test_a_rotating_cache_that_has_turned_refuses_to_be_rewound(subject, exhibit):
    """Overwritten tokens cannot come back: trimming a full cache removes nothing and returns 0."""
    rows = []
    for fed in (5, 8, 11):
        cache = [caches.RotatingKVCache(8) for _ in plain_cache(subject.model)]
        logits_of(subject.model, IDS[:fed], cache)
        rows.append([fed, caches.trim_prompt_cache(cache, 2), cache[0].offset])
    exhibit.table(
        rows, columns=["tokens fed", "tokens trimmed of 2", "position after it"],
        title="a rotating cache of 8 tokens",
    )  # fmt: skip
    trimmed = [row[1] for row in rows]

    says = exhibit.measured("tokens trimmed before and after it is full", trimmed, [2, 0, 0])

    assert trimmed == [2, 0, 0], says


def lose_a_position(monkeypatch):
    load = caches.load_prompt_cache

    def displaced(*arguments):
        loaded = load(*arguments)
        for cache in loaded:
            cache.offset -= 1
        return loaded

    monkeypatch.setattr(caches, "load_prompt_cache", displaced)


@pytest.mark.claim(id="1.23", falsifier=lose_a_position)
def test_a_saved_cache_goes_on_after_loading_to_the_bit(subject, exhibit, tmp_path):
    """The law of claim 9.24, here bit-identical for each kind of cache. The file also holds the
    allocated but unused part of the cache."""
    model, file = subject.model, str(tmp_path / "cache.safetensors")
    rows = []
    for name, cache in kinds_of_cache(subject):
        logits_of(model, IDS[:8], cache)
        caches.save_prompt_cache(file, cache)
        loaded = caches.load_prompt_cache(file)
        expected, seen = (logits_of(model, IDS[8:10], each) for each in (cache, loaded))
        rows.append([name, type(loaded[0]).__name__, np.array_equal(seen, expected)])
    exhibit.table(
        rows, columns=["cache", "loaded as", "logits bit-identical"], title="saved and loaded"
    )

    hold_to_law(subject, saved_cache_continues, exhibit)

    different = [row[0] for row in rows if not row[2]]
    says = exhibit.measured("caches whose logits change", different, should_be=[])
    assert not different, says


def kinds_of_cache(subject):
    """One empty cache of each kind; heads narrower than 32 numbers cannot be quantised."""
    plain = plain_cache(subject.model)
    yield "plain", plain
    yield "rotating", [caches.RotatingKVCache(6, keep=2) for _ in plain]
    if subject.facts["head_dim"] % 32 == 0:
        yield "quantised", quantised_cache(subject.model, bits=8)


def keep_keys_for_every_head(declared):
    many = {**declared.config, "num_key_value_heads": declared.config["num_attention_heads"]}
    return {"declared": declared.replacing(packed=declare(many))}


@pytest.mark.claim(id="1.24", falsifier=keep_keys_for_every_head)
def test_the_bytes_that_a_token_takes_in_the_cache_follow_from_the_config(declared, exhibit):
    """2 (keys, values) × layers × KV heads × head_dim × bytes per number; grows by 256."""
    plain_cache(declared.packed)
    short, long = (filled(declared.packed, tokens) for tokens in (300, CONTEXT))
    size = long[0].keys.dtype.size
    token = 2 * size * numbers_of(declared.facts)
    exhibit.table(
        [["one token, by the formula", show_bytes(token)],
         [f"{CONTEXT:,} tokens, by the formula", show_bytes(CONTEXT * token)],
         [f"{CONTEXT:,} tokens, held by the arrays", show_bytes(held(long))],
         ["300 tokens, held by the arrays", show_bytes(held(short))],
         ["300 tokens, as allocated", show_bytes(allocated(short))]],
        columns=["cache", "size"], title=f"KV cache at {8 * size} bits per number",
    )  # fmt: skip
    sizes = {
        f"{CONTEXT:,} tokens": (held(long), CONTEXT * token),
        "300 tokens": (held(short), 300 * token),
        "300 tokens as allocated": (allocated(short), 512 * token),
    }

    for what, (seen, predicted) in sizes.items():
        says = exhibit.measured(
            f"KV cache, {what}", show_size(seen, predicted),
            should_be=f"predicted {show_size(predicted, seen)}",
        )  # fmt: skip
        assert seen == predicted, says


def numbers_of(facts):
    """Numbers that one token adds to the keys of all layers, and again to the values."""
    return facts["layers"] * facts["n_kv_heads"] * facts["head_dim"]


@pytest.mark.claim(id="1.25", falsifier=store_eight_bits)
def test_a_quantised_cache_takes_its_bits_and_a_scale_and_bias_a_group(shape, exhibit):
    """In groups of 64 numbers; scales and biases keep the type of the keys."""
    group = 64
    numbers = 2 * numbers_of(shape.facts)
    plain = held(filled(shape.packed, CONTEXT)) // CONTEXT
    rows = []
    for bits in (8, 4, 2):
        cache = [caches.QuantizedKVCache(group, bits) for _ in shape.packed.layers]
        seen = held(filled(shape.packed, CONTEXT, cache)) / CONTEXT
        size = cache[0].keys[1].dtype.size
        rows.append([bits, seen, numbers * bits // 8 + 2 * size * numbers // group, plain / seen])
    exhibit.table(
        rows, columns=["bits", "bytes per token", "by the formula", "smaller by a factor of"],
        title=f"quantised KV cache; unquantised: {plain:,} bytes per token",
    )  # fmt: skip
    seen, expected = ([row[i] for row in rows] for i in (1, 2))

    says = exhibit.measured("bytes per token at 8, 4 and 2 bits", seen, should_be=expected)

    assert seen == expected, says
