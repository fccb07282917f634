"""What one rank sees of a model that it shares with others, beside the whole model.

All ranks call this in lockstep: each pass, each chunk and each token is a meeting of all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.sample_utils import make_sampler

from llm_spec.laws.case import Case
from llm_spec.laws.execution import feed_in_chunks, generate_batch, generating, logits_of
from llm_spec.laws.finding import within_rounding
from llm_spec.laws.model.batch import can_batch, prompts_of
from llm_spec.numerics import distances

CHUNKS = (7, 9, 1, 1, 16)  # tokens; the rest comes in one
ROWS, STEPS = (21, 11, 16), 6  # tokens of the prompts of a batch, and tokens that each row makes
SEEDS: tuple[int, ...] = (0, 1)  # of what is drawn
NUMBER = re.compile(r"\.\d+(?=\.)")
LAYER = re.compile(r"layers\.\d+\.")


@dataclass(frozen=True)
class _Run:
    logits: np.ndarray
    tokens: list[int]
    cached: np.ndarray | None = None
    rows: Sequence[Any] = ()


def seen_by_rank(whole: Case, shared: nn.Module, brief: bool = False) -> dict[str, Any]:
    """Distances between the shared model's logits and the whole model's, relative to each row's
    norm, and what this rank holds. Plain values:

    `logits`, `cached`, `batch` (None where its caches cannot be merged): distances from what the
    whole model gives in one pass, in the same chunks and in the same batch; `chosen` (as `batch`):
    how much less likely than its own the whole model finds what was chosen in that batch; `bound`:
    the most that the order of sums explains, None where nothing can be said in this type; `digest`:
    of the logits' bytes; `tokens`: greedy ones of the shared model; `whole_tokens`; `bytes` and
    `whole_bytes`; `drawn`: tokens of the shared model at temperature 1, for each of `SEEDS`;
    `layer_share`: of the bytes of the layers; `replicated`: weights that this rank holds whole.

    `brief`: in one pass alone; `tokens` are the likeliest ones after each of the prompt's, and
    `cached`, `batch`, `chosen` and `drawn` are None.
    """
    seen, right = _run(whole, shared, brief), whole.once(_alone, brief)
    missed = {"logits": distances.distance(seen.logits, right.logits), "cached": None}
    if seen.cached is not None and right.cached is not None:
        missed["cached"] = distances.distance(seen.cached, right.cached)
    worst = distances.worst(found for found in missed.values() if found is not None)
    return {
        **missed,
        **_compared(seen.rows, right.rows),
        "bound": within_rounding("d", worst, whole).bound,
        "digest": hashlib.sha256(seen.logits.tobytes()).hexdigest()[:16],
        "tokens": seen.tokens,
        "whole_tokens": right.tokens,
        "drawn": None if brief else [_drawn(shared, whole.token_ids, seed) for seed in SEEDS],
        **_held(whole.model, shared),
    }


def _alone(whole: Case, brief: bool) -> _Run:
    return _run(whole, whole.model, brief)


def _run(whole: Case, model: nn.Module, brief: bool) -> _Run:
    """Logits in one pass and in chunks, the rows of a batch (none where its caches cannot be
    merged) and greedy tokens."""
    ids, rows = whole.token_ids, []
    if brief:
        logits = logits_of(model, ids)
        return _Run(logits, logits.argmax(axis=-1).tolist())
    cached, _ = feed_in_chunks(model, ids, [*CHUNKS, len(ids) - sum(CHUNKS)])
    if can_batch(whole):
        rows = generate_batch(model, prompts_of(whole, ROWS), [STEPS] * len(ROWS))
        # Collectives of two streams mix without a word: nothing of this one may be left.
        mx.synchronize(generating.generation_stream)
    return _Run(logits_of(model, ids), _greedy(model, ids), cached, rows)


def _compared(rows: Sequence[Any], whole_rows: Sequence[Any]) -> dict[str, float | None]:
    """`batch`: the largest distance of log-probabilities up to the first token that differs: where
    two were equally likely, rounding chooses, and what follows answers another text. `chosen`: by
    how much that token is less likely than the whole model's, relative to the norm of its logits
    around their mean."""
    if not rows:
        return {"batch": None, "chosen": None}
    missed, gaps = [], [0.0]
    for (tokens, logprobs, _), (right, expected, _) in zip(rows, whole_rows, strict=True):
        for step, (token, wanted) in enumerate(zip(tokens, right, strict=True)):
            missed.append(distances.distance(logprobs[step], expected[step]))
            if token != wanted:
                row = expected[step]  # (vocabulary,)
                gaps.append(float((row[wanted] - row[token]) / np.linalg.norm(row - row.mean())))
                break
    return {"batch": distances.worst(missed), "chosen": distances.worst(gaps)}


def _greedy(model: nn.Module, prompt: list[int]) -> list[int]:
    return _generated(model, prompt, None)


def _drawn(model: nn.Module, prompt: list[int], seed: int) -> list[int]:
    mx.random.seed(seed)
    return _generated(model, prompt, make_sampler(temp=1.0))


def _generated(model: nn.Module, prompt: list[int], sampler: Any) -> list[int]:
    steps = generating.generate_step(mx.array(prompt), model, max_tokens=STEPS, sampler=sampler)
    tokens = [int(token) for token, _ in steps]
    mx.synchronize(generating.generation_stream)
    return tokens


def _held(whole: nn.Module, shared: nn.Module) -> dict[str, Any]:
    all_of = {path: array.nbytes for path, array in tree_flatten(whole.parameters())}
    own = {path: array.nbytes for path, array in tree_flatten(shared.parameters())}
    whole_ones = {NUMBER.sub(".*", path) for path, size in own.items() if all_of.get(path) == size}
    return {
        "bytes": sum(own.values()),
        "whole_bytes": sum(all_of.values()),
        "layer_share": _in_layers(own) / _in_layers(all_of),
        "replicated": sorted(whole_ones),
    }


def _in_layers(sizes: dict[str, int]) -> int:
    return sum(size for path, size in sizes.items() if LAYER.search(path))
