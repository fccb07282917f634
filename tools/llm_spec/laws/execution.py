"""Running a model in all the ways in which it should give the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import cache as caching

from llm_spec.numerics import distances

# The package exports a function of the same name, which hides the module from `import … as`.
# mlx-lm's functions are looked up when they are called: a law sees what is there at that moment.
generating: Any = import_module("mlx_lm.generate")
NORMALISER = 0.1  # nats that a row of log-probabilities may be off by


def logits_of(
    model: nn.Module,
    token_ids: Sequence[int],
    cache: list[Any] | None = None,
    since: int = 0,
    **options: Any,
) -> np.ndarray:
    """One pass over one sequence: (tokens, vocabulary) float32, from token `since` on."""
    return batch_logits(model, [token_ids], cache, since, **options)[0]


def declare_pass(
    model: nn.Module, token_ids: Sequence[int], cache: list[Any] | None = None
) -> None:
    """One pass over one sequence, of which nothing is computed: to watch what it calls, and with
    what. Arrays that are seen there can be evaluated."""
    options = {} if cache is None else {"cache": cache}
    model(mx.array([list(token_ids)]), **options)


def batch_logits(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    cache: list[Any] | None = None,
    since: int = 0,
    **options: Any,
) -> np.ndarray:
    """One pass over rows of one length: (rows, tokens, vocabulary) float32, from token `since`
    on."""
    if cache is not None:
        options["cache"] = cache
    logits = model(mx.array([list(row) for row in rows]), **options)
    if isinstance(logits, tuple):
        logits = logits[0]
    return np.array(logits[:, since:].astype(mx.float32))


def feed_in_chunks(
    model: nn.Module,
    token_ids: Sequence[int],
    lengths: Iterable[int],
    cache: list[Any] | None = None,
) -> tuple[np.ndarray, list[Any]]:
    """Feed a sequence through a cache piece by piece: (tokens fed, vocabulary), and the cache."""
    cache = caching.make_prompt_cache(model) if cache is None else cache
    pieces, start = [], 0
    for length in lengths:
        pieces.append(logits_of(model, token_ids[start : start + length], cache))
        start += length
    return np.concatenate(pieces), cache


def fill(
    model: nn.Module,
    token_ids: Sequence[int],
    lengths: Iterable[int],
    cache: list[Any] | None = None,
) -> list[Any]:
    """Feed a sequence through a cache piece by piece, and return the cache. As where mlx-lm reads a
    prompt, no logits are computed."""
    cache = caching.make_prompt_cache(model) if cache is None else cache
    start = 0
    for length in lengths:
        model(mx.array([list(token_ids[start : start + length])]), cache=cache)
        mx.eval([entry.state for entry in cache])
        start += length
    return cache


def reloaded(caches: list[Any]) -> list[Any]:
    """A prompt cache, one entry per layer, saved and loaded again."""
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "cache.safetensors")
        caching.save_prompt_cache(file, caches)
        loaded: list[Any] = caching.load_prompt_cache(file)
        mx.eval([cache.state for cache in loaded])  # while the file is there
    return loaded


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis, in float64."""
    return logits - _log_sum_exp(logits)


def renormalised(logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities, (..., vocabulary), whose probabilities add up to one in float64.

    `mx.logsumexp`, by which mlx-lm normalises, is off by up to 8e-4 on a CPU where vocabularies
    hold 150,000 ids and more, and half types round it to 0.06 where it is 16. Rows that are off by
    more than `NORMALISER` are none of its doing, and stay as they are.
    """
    off = _log_sum_exp(logprobs)
    return logprobs - np.where(np.abs(off) <= NORMALISER, off, 0)


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    largest = logits.max(axis=-1, keepdims=True)
    return largest + np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))


def generate_batch(
    model: nn.Module,
    prompts: Sequence[list[int]],
    lengths: Sequence[int],
    processors: list[list[Any]] | None = None,
    samplers: list[Any] | None = None,
    caches: list[list[Any]] | None = None,
    **options: Any,
) -> list[tuple[list[int], np.ndarray, list[Any]]]:
    """Generate greedily for all prompts with mlx-lm's batch generator.

    Returns per prompt its tokens, (tokens, vocabulary) log-probabilities and the cache handed back.
    """
    generator = generating.BatchGenerator(model, **options)
    try:
        ids = generator.insert(
            [list(prompt) for prompt in prompts],
            max_tokens=list(lengths),
            samplers=samplers,
            caches=caches,
            logits_processors=processors,
        )
        tokens: dict[int, list[int]] = {uid: [] for uid in ids}
        rows: dict[int, list[np.ndarray]] = {uid: [] for uid in ids}
        handed_back: dict[int, list[Any]] = {}
        while len(handed_back) < len(ids):
            for response in generator.next_generated():
                tokens[response.uid].append(response.token)
                rows[response.uid].append(np.array(response.logprobs.astype(mx.float32)))
                if response.finish_reason is not None:
                    handed_back[response.uid] = response.prompt_cache
    finally:
        generator.close()
    return [(tokens[uid], renormalised(np.stack(rows[uid])), handed_back[uid]) for uid in ids]


def expected_rows(model: nn.Module, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """(tokens, vocabulary) log-probabilities that one pass over `prompt` and `tokens` gives."""
    logits = logits_of(model, prompt + tokens)
    return log_softmax(logits[len(prompt) - 1 : -1])


def distance_from_greedy(tokens: list[int], logprobs: np.ndarray, expected: np.ndarray) -> float:
    """Distance of a row's log-probabilities from those that one pass over its text gives,
    (tokens, vocabulary); infinite where a token is not the argmax."""
    if tokens != logprobs.argmax(axis=-1).tolist():
        return float("inf")
    return distances.distance(logprobs, expected)
