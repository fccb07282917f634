"""Whether a model makes use of what came before: a damaged attention still knows letter pairs.

A model whose queries and keys lost their order predicts ordinary text better than a table of letter
pairs does. What it cannot do is look back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from llm_spec.model.row_order import in_halves, in_pairs
from llm_spec.quality.likelihood import logprobs_of, token_logprobs

SHORT = 4  # tokens that a short prefix keeps
REPEATED = 32  # random tokens that come twice
ORDINARY = 200  # ids below are bytes and special tokens in most vocabularies


def bits_saved_by_context(model: Any, token_ids: list[int]) -> float:
    """Bits per token that the whole text before saves over its last four tokens, for the second
    half of `token_ids`. Both predict the same tokens."""
    half = len(token_ids) // 2
    whole = token_logprobs(model, token_ids)[half - 1 :]
    starts = range(half, len(token_ids) - SHORT + 1, SHORT)
    rows = [token_ids[start - SHORT : start + SHORT] for start in starts]
    logits = model(mx.array(rows)[:, :-1]).astype(mx.float32)
    short = [logprobs_of(*pair)[SHORT - 1 :] for pair in zip(logits, rows, strict=True)]
    return float((whole[: SHORT * len(rows)] - np.concatenate(short)).mean()) / log(2)


def bits_saved_by_repetition(model: Any, vocabulary: int, seed: int = 0) -> float:
    """Bits per token that random tokens cost less when they come a second time."""
    least = min(ORDINARY, vocabulary // 4)
    ids = np.random.default_rng(seed).integers(least, vocabulary, REPEATED).tolist()
    logprobs = token_logprobs(model, [*ids, *ids])
    first, second = logprobs[: REPEATED - 1], logprobs[REPEATED:]
    return float(second.mean() - first.mean()) / log(2)


def rows_of_queries_and_keys(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """The projections whose rows rotary embeddings turn in pairs, each with its head's width; none
    where the model's attention is not made as llama's is."""
    found = []
    for module in model.modules():
        rope = getattr(module, "rope", None)
        heads = getattr(module, "n_heads", None), getattr(module, "n_kv_heads", None)
        for name, count in zip(("q_proj", "k_proj"), heads, strict=True):
            projection = getattr(module, name, None)
            if rope is None or projection is None or not count or "weight" not in projection:
                continue
            rows = projection["weight"].shape[0]
            if rows % count == 0 and rows // count == getattr(rope, "dims", None):
                found.append((projection, rows // count))
    return found


@contextmanager
def rows_in_another_order(model: nn.Module, interleaved: bool) -> Iterator[bool]:
    """Let the rows of each head of queries and keys stand in the other order that files have: in
    halves where they lie in pairs, or the reverse. Tells whether the model has such rows."""
    projections = rows_of_queries_and_keys(model)
    before = [dict(projection.parameters()) for projection, _ in projections]
    reorder = in_pairs if interleaved else in_halves
    try:
        for projection, width in projections:
            for name, array in projection.parameters().items():
                projection[name] = reorder(array, width)
        yield bool(projections)
    finally:
        for (projection, _), arrays in zip(projections, before, strict=True):
            for name, array in arrays.items():
                projection[name] = array


def bits_by_row_order(model: nn.Module, token_ids: list[int]) -> dict[str, np.ndarray]:
    """Bits of each token of a text, (tokens - 1,), with the rows of q and k as they are, and in
    both other orders; only as they are where no rows are turned in pairs."""
    found = {"as stored": _bits(model, token_ids)}
    for name, interleaved in (("pairs taken apart", False), ("halves interleaved", True)):
        with rows_in_another_order(model, interleaved) as has_rows:
            if has_rows:
                found[name] = _bits(model, token_ids)
    return found


def _bits(model: Any, token_ids: list[int]) -> np.ndarray:
    return -token_logprobs(model, token_ids) / log(2)
