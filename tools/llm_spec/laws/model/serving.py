"""Laws of serving: histories are taken up, rows are taken away, answers come in their order."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caching
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from llm_spec.laws.case import Case
from llm_spec.laws.execution import (
    feed_in_chunks,
    fill,
    generate_batch,
    generating,
    renormalised,
)
from llm_spec.laws.finding import Finding, law, law_of_code, not_applicable, same, within_rounding
from llm_spec.laws.model.batch import (
    NO_BATCHES,
    ROWS,
    STEPS,
    can_batch,
    greedy_distance,
    prompts_of,
)
from llm_spec.laws.model.generation import Spelling
from llm_spec.numerics import distances
from llm_spec.text.untrusted import one_line

GROUP, DEFAULT_GROUP, BITS = 32, 64, 8
NOT_QUANTISED = "not all of its caches can be quantised"


@law_of_code
def histories_are_taken_up(case: Case) -> Finding:
    """A batch of prompts with prompt caches of different lengths, one of them empty, continues from
    each cache, and leaves the caches unchanged."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    texts, held = prompts_of(case, ROWS), (14, 0, 11)
    caches = [
        fill(case.model, text, [length - 2, 1, 1])
        if length
        else caching.make_prompt_cache(case.model)
        for text, length in zip(texts, held, strict=True)
    ]
    before = copy.deepcopy(caches)
    prompts = [text[length:] for text, length in zip(texts, held, strict=True)]
    rows = generate_batch(case.model, prompts, [STEPS] * 3, caches=caches, prefill_step_size=5)
    worst = distances.worst(
        greedy_distance(case, text, tokens, logprobs)
        for text, (tokens, logprobs, _) in zip(texts, rows, strict=True)
    )
    alone = within_rounding("distance of a row from the row alone", worst, case)
    if not alone.holds:
        return alone
    changed = [i for i, pair in enumerate(zip(caches, before, strict=True)) if not _alike(*pair)]
    return same("prompt caches that the batch changed", changed, [])


def _alike(cache: list[Any], other: list[Any]) -> bool:
    """Whether two prompt caches hold the same, to the bit."""
    held, wanted = (
        dict(tree_flatten([[entry.state, getattr(entry, "offset", 0)] for entry in entries]))
        for entries in (cache, other)
    )
    return held.keys() == wanted.keys() and all(_same(held[k], wanted[k]) for k in held)


def _same(part: Any, other: Any) -> bool:
    if isinstance(part, mx.array) and isinstance(other, mx.array):
        return bool(mx.array_equal(part, other).item())
    return bool(part == other)


@law_of_code
def rows_can_be_taken_away(case: Case) -> Finding:
    """When a row is removed from a running batch, the other rows give their single-sequence
    results, and the removed row's cache comes with the tokens that it holds."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    prompts = prompts_of(case, ROWS)
    generator = generating.BatchGenerator(case.model)
    tokens: dict[int, list[int]] = {}
    rows: dict[int, list[np.ndarray]] = {}
    try:
        ids = generator.insert([list(prompt) for prompt in prompts], max_tokens=[STEPS] * 3)
        away, running = ids[0], set(ids)
        while running:
            for response in generator.next_generated():
                tokens.setdefault(response.uid, []).append(response.token)
                row = np.array(response.logprobs.astype(mx.float32))
                rows.setdefault(response.uid, []).append(row)
                if response.finish_reason is not None:
                    running.discard(response.uid)
            if away in running and len(tokens.get(away, [])) == 2:
                taken = generator.remove([away], return_prompt_caches=True)
                running.discard(away)
    finally:
        generator.close()
    worst = distances.worst(
        greedy_distance(case, prompt, tokens[uid], renormalised(np.stack(rows[uid])))
        for uid, prompt in zip(ids, prompts, strict=True)
    )
    others = within_rounding("distance of a row from the row alone", worst, case)
    if not others.holds:
        return others
    held = list(taken[away][1])
    return same("tokens that were taken away", held, prompts[0] + tokens[away])


@law_of_code
def answers_keep_their_order(case: Case) -> Finding:
    """A batch of prompts is answered in the order of the prompts, each to its own length and
    without its end-of-sequence token."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    prompts, lengths = prompts_of(case, (9, 25, 14)), (2, 5, 3)
    free = [tokens for tokens, _, _ in generate_batch(case.model, prompts, lengths)]
    end = free[1][3]
    spelling = Spelling(end)
    answer = generating.batch_generate(
        case.model, spelling, [list(prompt) for prompt in prompts], max_tokens=list(lengths)
    )
    wanted = [
        spelling.decode(tokens[: tokens.index(end)] if end in tokens else tokens) for tokens in free
    ]
    return same("answers", answer.texts, wanted)


@law
def generation_quantises_its_cache(case: Case) -> Finding:
    """On request, generation quantises every KV cache, whatever layers lie between, to the
    requested bits and group size."""
    plain, widths = case.once(_caches_to_quantise)
    if not plain or any(width % GROUP for width in widths):
        return not_applicable(NOT_QUANTISED)
    return _quantised_as_asked(case, plain, kv_group_size=GROUP)


@law
def generation_quantises_by_default(case: Case) -> Finding:
    """With kv_bits=8 and no group size, generation quantises its cache in groups of 64.

    Where a head's width is no multiple of 64, that raises and says nothing of the model: the
    finding tells so, and which group works.
    """
    plain, widths = case.once(_caches_to_quantise)
    if not plain:
        return not_applicable(NOT_QUANTISED)
    if not (odd := sorted(width for width in widths if width % DEFAULT_GROUP)):
        return _quantised_as_asked(case, plain)
    try:
        _quantised_as_asked(case, plain)
    except ValueError as error:
        raised = f"raises for a head width of {odd[0]} ({one_line(str(error))[:60]}…)"
    else:
        return same("a group of 64 on a head width of", odd[0], "a multiple of 64, or refused")
    fits, works = not any(width % GROUP for width in widths), f"kv_group_size={GROUP} works"
    if not fits or not _works(case, plain, GROUP):
        works = f"kv_group_size={GROUP} {'does not work' if fits else 'does not fit'} either"
    return not_applicable(f"kv_bits at mlx-lm's default group of 64 {raised}; {works}")


def _caches_to_quantise(case: Case) -> tuple[list[int], set[int]]:
    """The places of the caches of keys and values, and the widths of their heads; none where
    mlx-lm cannot quantise some cache of the model. Ask `case.once`."""
    cache: list[Any] = caching.make_prompt_cache(case.model)
    entries = [part for entry in cache for part in getattr(entry, "caches", (entry,))]
    if any(hasattr(part, "to_quantized") and type(part) is not KVCache for part in entries):
        return [], set()
    _, fed = feed_in_chunks(case.model, case.token_ids[:2], [2])
    # A layer without attention keeps an empty cache.
    plain = [i for i, entry in enumerate(fed) if type(entry) is KVCache and not entry.empty()]
    return plain, {part.shape[-1] for i in plain for part in (fed[i].keys, fed[i].values)}


def _quantised_as_asked(case: Case, plain: Iterable[int], **asked: int) -> Finding:
    cache: list[Any] = caching.make_prompt_cache(case.model)
    steps = generating.generate_step(
        mx.array(case.token_ids[:13]),
        case.model,
        max_tokens=2,
        prompt_cache=cache,
        kv_bits=BITS,
        quantized_kv_start=0,
        **asked,
    )
    list(steps)
    wanted = (BITS, asked.get("kv_group_size", DEFAULT_GROUP))
    wrong = [
        i
        for i in plain
        if not isinstance(cache[i], QuantizedKVCache)
        or (cache[i].bits, cache[i].group_size) != wanted
    ]
    return same("caches that were not quantised as asked", wrong, [])


def _works(case: Case, plain: Iterable[int], group: int) -> bool:
    try:
        return bool(_quantised_as_asked(case, plain, kv_group_size=group).holds)
    except Exception:
        return False
