"""Laws of generation: what mlx-lm's loops do with a model is what the model's logits say."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as caching

from tools import tolerances
from tools.laws.batched import NO_BATCHES, can_batch, prompts_of
from tools.laws.finding import Case, Finding, law, same, vacuous, within, without
from tools.laws.runs import expected_rows, generated, generating

STEPS, CHUNK = 6, 12


@law
def generation_follows_the_logits(case: Case) -> Finding:
    """Prompted in chunks, greedy generation gives the log-probabilities of one pass over its text,
    and takes the largest."""
    prompt = case.token_ids[: 2 * len(case.token_ids) // 3]
    tokens, rows = [], []
    steps = generating.generate_step(
        mx.array(prompt), case.model, max_tokens=STEPS, prefill_step_size=CHUNK
    )
    for token, logprobs in steps:
        tokens.append(token)
        rows.append(np.array(logprobs.astype(mx.float32)))
    largest = [int(row.argmax()) for row in rows]
    if tokens != largest:
        return same("greedy tokens", tokens, largest)
    expected = expected_rows(case.model, prompt, tokens)
    missed = tolerances.distance(np.stack(rows), expected)
    return within("distance of generated log-probabilities", missed, case.reordered)


@law
def speculation_is_greedy(case: Case) -> Finding:
    """With a draft model, greedy decoding gives the tokens it gives without, to the last one.

    The draft is the model itself with every fourth answer spoilt, so that drafts are both accepted
    and rejected.
    """
    if not caching.can_trim_prompt_cache(caching.make_prompt_cache(case.model)):
        return without("its cache cannot be trimmed")
    prompt, count = case.token_ids[:13], 2 * STEPS
    steps = generating.speculative_generate_step(
        mx.array(prompt),
        case.model,
        SpoiltDraft(case.model),
        num_draft_tokens=3,
        max_tokens=count,
    )
    tokens, rows, accepted = [], [], 0
    for token, logprobs, from_draft in steps:
        tokens.append(token)
        rows.append(np.array(logprobs.astype(mx.float32)))
        accepted += from_draft
    plain = [
        step[0] for step in generating.generate_step(mx.array(prompt), case.model, max_tokens=count)
    ]
    agree = next((i for i in range(count) if tokens[i] != plain[i]), count)
    if agree < count:
        return same("tokens before the first that differs", agree, count)
    if not 0 < accepted < count - 1:
        return vacuous(f"{accepted} of {count} drafts were accepted")
    missed = tolerances.distance(np.stack(rows), expected_rows(case.model, prompt, tokens))
    return within("distance of speculative log-probabilities", missed, case.reordered)


class SpoiltDraft:
    """A model whose every fourth answer is turned upside down."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._calls = 0

    def __call__(self, token_ids: mx.array, cache: list[Any]) -> mx.array:
        logits = self._model(token_ids, cache=cache)
        logits = logits[0] if isinstance(logits, tuple) else logits
        self._calls += 1
        return logits if self._calls % 4 else -logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@law
def processors_see_everything(case: Case) -> Finding:
    """At every step a logits processor is given the whole prompt and all that was generated."""
    prompt = case.token_ids[: 2 * len(case.token_ids) // 3]
    witness = Witness()
    steps = generating.generate_step(
        mx.array(prompt),
        case.model,
        max_tokens=3,
        prefill_step_size=CHUNK,
        logits_processors=[witness],
    )
    texts = [(prompt + [token for token, _ in steps], witness)]
    if can_batch(case):
        prompts = prompts_of(case, (29, 8))
        witnesses = [Witness(), Witness()]
        rows = generated(case.model, prompts, [3, 3], processors=[[each] for each in witnesses])
        texts += [
            (prompt + row[0], each)
            for prompt, row, each in zip(prompts, rows, witnesses, strict=True)
        ]
    wrong = [
        f"{len(seen)} tokens at step {step} instead of {len(text) - 3 + step}"
        for text, witness in texts
        for step, seen in enumerate(witness.seen[:3])
        if seen != text[: len(text) - 3 + step]
    ]
    return same("what a processor saw", wrong[0] if wrong else "everything", "everything")


class Witness:
    """A logits processor that changes nothing and remembers the tokens that it was given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self.seen.append(tokens.tolist())
        return logits


@law
def a_batch_stops_at_its_stop_tokens(case: Case) -> Finding:
    """A row ends with the first stop sequence that it generates, and not before."""
    if not can_batch(case):
        return without(NO_BATCHES)
    prompts = prompts_of(case, (29, 8))
    free = [tokens for tokens, _, _ in generated(case.model, prompts, [STEPS] * 2)]
    stop = free[0][2:4]
    ends = [_first(tokens, stop) for tokens in free]
    stopped = generated(case.model, prompts, [STEPS] * 2, stop_tokens=[stop])
    return same("tokens until the stop", [len(tokens) for tokens, _, _ in stopped], ends)


def _first(tokens: list[int], sequence: list[int]) -> int:
    """How many tokens there are up to the end of the first `sequence` in them."""
    width = len(sequence)
    for start in range(len(tokens) - width + 1):
        if tokens[start : start + width] == sequence:
            return start + width
    return len(tokens)
