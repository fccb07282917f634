"""Laws of batches: a row gives what it gives alone, whatever rows share its batch.

Lengths differ in all of them: batches of one length hide every fault of padding. The rows' own
greedy tokens are fed to one pass without a cache, and log-probabilities are compared: a fault shows
even where it does not change the largest one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as caching

from llm_spec.laws.case import Case
from llm_spec.laws.execution import (
    batch_logits,
    distance_from_greedy,
    fill,
    generate_batch,
    log_softmax,
    logits_of,
)
from llm_spec.laws.finding import Finding, law_of_code, not_applicable, same, within_rounding
from llm_spec.laws.model.cache import BEFORE, long_case, long_logits, long_text
from llm_spec.numerics import distances

ROWS, STEPS = (21, 11, 16), 6
"""Tokens of the prompts in a batch, and tokens that each row makes: the same in several laws, for
which the rows are then computed alone once."""
NO_BATCHES = "its caches cannot be merged into a batch"


def prompts_of(case: Case, lengths: Sequence[int]) -> list[list[int]]:
    """Prompts of these lengths, each starting elsewhere in the case's tokens."""
    ids = case.token_ids * (max(lengths) // len(case.token_ids) + 2)
    return [ids[i : i + length] for i, length in enumerate(lengths)]


def can_batch(case: Case) -> bool:
    """Whether every cache of the model offers to be merged, as mlx-lm's server asks."""
    return all(hasattr(entry, "merge") for entry in caching.make_prompt_cache(case.model))


def alone(case: Case, text: tuple[int, ...]) -> np.ndarray:
    """(tokens, vocabulary): logits of one pass over a text. Ask `case.once`."""
    return logits_of(case.model, text)


def greedy_distance(
    case: Case, prompt: list[int], tokens: list[int], logprobs: np.ndarray
) -> float:
    """Distance of a row's log-probabilities from those of one pass over its text; infinite where a
    token is not the argmax."""
    expected = log_softmax(case.once(alone, (*prompt, *tokens))[len(prompt) - 1 : -1])
    return distance_from_greedy(tokens, logprobs, expected)


def rows_of_batch(case: Case, **options: Any) -> list[tuple[list[int], np.ndarray]]:
    """Tokens and (tokens, vocabulary) log-probabilities of rows of `ROWS` tokens in one batch, each
    `STEPS` tokens long. Ask `case.once` where there are no options."""
    lengths = [STEPS] * len(ROWS)
    rows = generate_batch(case.model, prompts_of(case, ROWS), lengths, **options)
    return [(tokens, logprobs) for tokens, logprobs, _ in rows]


@law_of_code
def batch_rows_are_alone(case: Case) -> Finding:
    """Batched logits equal single-sequence logits when prompt lengths differ."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    worst = distances.worst(
        greedy_distance(case, prompt, *row)
        for prompt, row in zip(prompts_of(case, ROWS), case.once(rows_of_batch), strict=True)
    )
    return within_rounding("distance of a row in a batch from the row alone", worst, case)


@law_of_code
def a_long_batch_is_alone(case: Case) -> Finding:
    """Rows of a batch that is read in chunks, and crosses the step by which caches grow while it is
    written, give what each gives alone: the long one, and one whose first chunks are padding.

    What the rows write is given, so that the long one is a text that is read elsewhere, too.
    """
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    steps, texts = 5, (long_text(case)[: BEFORE + 5], case.token_ids[1:26])
    samplers = [Dictated(text[-steps:]) for text in texts]
    rows = generate_batch(
        case.model,
        [text[:-steps] for text in texts],
        [steps] * 2,
        samplers=samplers,
        prefill_step_size=100,
    )
    if any(tokens != text[-steps:] for text, (tokens, _, _) in zip(texts, rows, strict=True)):
        return same("tokens that were written", [tokens for tokens, _, _ in rows], texts)
    logits = case.once(long_logits)[:steps], case.once(alone, tuple(texts[1]))[-steps - 1 : -1]
    worst = distances.worst(
        distances.distance(logprobs, expected)
        for (_, logprobs, _), expected in zip(rows, map(log_softmax, logits), strict=True)
    )
    return within_rounding(
        "distance of a row in a batch from the row alone", worst, case.once(long_case)
    )


class Dictated:
    """A sampler that writes what it was given, token by token, and zeros after that."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = iter(tokens)

    def __call__(self, logprobs: mx.array) -> mx.array:
        return mx.full(logprobs.shape[:-1], next(self._tokens, 0), mx.uint32)


@law_of_code
def rows_keep_their_samplers(case: Case) -> Finding:
    """Each row of a batch is sampled by its own sampler, also after other rows have left."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    prompts = prompts_of(case, (9, 12, 7))
    ranks = (2, 0, 5)
    samplers = [functools.partial(_of_rank, rank) for rank in ranks]
    rows = generate_batch(case.model, prompts, (2, 6, 4), samplers=samplers)
    wrong = [
        i
        for i, (rank, (tokens, logprobs, _)) in enumerate(zip(ranks, rows, strict=True))
        if tokens != np.argsort(-logprobs, axis=-1, kind="stable")[:, rank].tolist()
    ]
    return same("rows sampled by another row's sampler", wrong, [])


def _of_rank(rank: int, logprobs: mx.array) -> mx.array:
    """The token with just `rank` likelier ones."""
    return mx.argsort(-logprobs, axis=-1)[..., rank]


@law_of_code
def batches_change_while_they_run(case: Case) -> Finding:
    """Batched logits equal single-sequence logits while rows join and leave the batch, and the
    cache that a row returns continues its text."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    prompts = prompts_of(case, (21, 11, 16, 9))
    lengths = (6, 3, 5, 4)
    rows = generate_batch(
        case.model, prompts, lengths, completion_batch_size=2, prefill_batch_size=2
    )
    made = [len(tokens) for tokens, _, _ in rows]
    if made != list(lengths):
        return same("tokens that each row made", made, list(lengths))
    more, worst = case.token_ids[:3], 0.0
    for prompt, (tokens, logprobs, cache) in zip(prompts, rows, strict=True):
        seen = prompt + tokens
        alone = logits_of(case.model, seen + more)
        expected = log_softmax(alone[len(prompt) - 1 : len(seen) - 1])
        missed = distance_from_greedy(tokens, logprobs, expected)
        goes_on = distances.distance(logits_of(case.model, more, cache), alone[len(seen) :])
        worst = distances.worst((worst, missed, goes_on))
    return within_rounding("distance of a row in a batch from the row alone", worst, case)


@law_of_code
def histories_merge(case: Case) -> Finding:
    """Two caches of different lengths, merged into a batch, give single-sequence logits."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    ids, steps = case.token_ids, 4
    prompts, more = [ids[:-steps], ids[1:14]], [ids[-steps:], ids[14 : 14 + steps]]
    # The last tokens come one by one: a ring lies in the order of time until it has wrapped.
    caches = [fill(case.model, p, [len(p) - 5, *[1] * 5]) for p in prompts]
    merged: list[Any] = [entries[0].merge(list(entries)) for entries in zip(*caches, strict=True)]
    got = np.stack(
        [batch_logits(case.model, [[row[i]] for row in more], merged)[:, 0] for i in range(steps)],
        axis=1,
    )  # (rows, steps, vocabulary)
    alone = [case.logits, logits_of(case.model, prompts[1] + more[1])]
    worst = distances.worst(
        distances.distance(row, wanted[-steps:]) for row, wanted in zip(got, alone, strict=True)
    )
    return within_rounding("distance of a merged row from the row alone", worst, case)
