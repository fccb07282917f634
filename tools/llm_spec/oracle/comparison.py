"""Logits of both sides beside each other: whole, cached token by token, in chunks, in a batch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_spec.numerics.distances import distance, worst
from llm_spec.oracle import twins
from llm_spec.oracle.pair import BOUND, Mend, Outcome, Pair

CHUNK = 10  # tokens of a prefill step: no divisor of a window or of a prompt
WRITTEN = 5  # tokens that a row of a batch writes: the last ones of its prompt

MOVE = 0.05  # of each value of a weight, up or down
CANNOT = (Exception, SystemExit)  # mlx-lm's olmo ends the process where a package is missing


def compare(
    pair: Pair,
    mend: Mend | None = None,
    ways: Sequence[str] = ("cached", "chunked"),
    move: bool = False,
    beside: Pair | None = None,
) -> Outcome:
    """Hold mlx-lm to transformers on one tiny model.

    Args:
        mend: run in this process before a side is made.
        ways: how to feed mlx-lm besides whole prompts: "cached" token by token, "chunked", or
            "batched", all prompts in one batch. Models whose caches do not merge have no batches.
        move: whether to move each weight and see whether the logits move.
        beside: a pair of the same type; whether transformers computes other logits for it.
    """
    if mend:
        mend()
    try:
        model = twins.build(pair)
        vocabulary = _vocabulary(model)
        asked = {n: twins.prompt(vocabulary, n, pair.seed) for n in pair.lengths}
        reference = {n: twins.theirs(model, [ids])[0] for n, ids in asked.items()}
        turned = _turned(beside, asked, reference) if beside else None
    except CANNOT as error:
        return Outcome("not built", one_line(error), "transformers")
    with tempfile.TemporaryDirectory() as folder:
        try:
            unwritten = twins.write(model, pair, Path(folder))
        except CANNOT as error:
            return Outcome("not written", one_line(error), "transformers")
        try:
            ours, _ = twins.load(Path(folder))
        except CANNOT as error:
            return Outcome("not loaded", one_line(error), "mlx-lm", unwritten=unwritten)
    try:
        fed = {n: _logits(ours, ids) for n, ids in asked.items()}
        whole = fed[max(asked)]
        found = {"whole": {n: distance(each, reference[n]) for n, each in fed.items()}}
        if "cached" in ways:  # a shorter prompt is the start of the longest one: feed that once
            rows = _fed(ours, asked[max(asked)], 1)
            found["cached"] = {n: distance(rows[:n], each) for n, each in reference.items()}
        if "chunked" in ways:
            pieces = {n: _fed(ours, ids, CHUNK) for n, ids in asked.items()}
            found["chunked"] = {n: distance(each, reference[n]) for n, each in pieces.items()}
        if "batched" in ways and _can_batch(ours):
            found["batched"] = _batched(ours, asked, reference)
        unmoved = _unmoved(ours, asked[max(asked)], whole, pair.seed) if move else None
    except CANNOT as error:
        return Outcome("not computed", one_line(error), "mlx-lm", unwritten=unwritten)
    apart = [distance(a[None], b[None]) for a, b in zip(whole, reference[max(asked)], strict=True)]
    first = next((i for i, each in enumerate(apart) if not each <= BOUND), None)
    return Outcome(
        "compared", distances=found, first=first, unmoved=unmoved, turned=turned,
        unwritten=unwritten,
    )  # fmt: skip


def one_line(error: BaseException) -> str:
    """An exception in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _turned(beside: Pair, asked: dict[int, list[int]], reference: dict[int, np.ndarray]) -> float:
    model = twins.build(beside)
    return worst(distance(twins.theirs(model, [ids])[0], reference[n]) for n, ids in asked.items())


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _logits(model: Any, ids: list[int], cache: Any = None) -> np.ndarray:
    import mlx.core as mx

    return np.array(model(mx.array([ids]), cache=cache)[0].astype(mx.float32))


def _fed(model: Any, ids: list[int], step: int) -> np.ndarray:
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    pieces = [_logits(model, ids[i : i + step], cache) for i in range(0, len(ids), step)]
    return np.concatenate(pieces)


def _can_batch(model: Any) -> bool:
    """Whether every cache offers to be merged, as mlx-lm's server asks."""
    from mlx_lm.models.cache import make_prompt_cache

    return all(hasattr(entry, "merge") for entry in make_prompt_cache(model))


def _batched(
    model: Any, asked: Mapping[int, list[int]], reference: Mapping[int, np.ndarray]
) -> dict[int, float]:
    """Distance of the last `WRITTEN` rows of each prompt, which mlx-lm's batch generator writes
    after it has read what is before them, prompts of all lengths at once. The generator gives
    log-probabilities: both sides are compared less their mean, which is the same for both."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator

    texts = list(asked.values())
    generator = BatchGenerator(model)
    rows: dict[int, list[np.ndarray]] = {}
    try:
        uids = generator.insert(
            [ids[:-WRITTEN] for ids in texts],
            max_tokens=[WRITTEN] * len(texts),
            samplers=[_Dictated(ids[-WRITTEN:]) for ids in texts],
        )
        while sum(map(len, rows.values())) < WRITTEN * len(texts):
            for response in generator.next_generated():
                logprobs = np.array(response.logprobs.astype(mx.float32))
                rows.setdefault(response.uid, []).append(logprobs)
    finally:
        generator.close()
    return {
        n: distance(_centred(np.stack(rows[uid])), _centred(reference[n][-WRITTEN - 1 : -1]))
        for n, uid in zip(asked, uids, strict=True)
    }


class _Dictated:
    """A sampler that writes the tokens it was given."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = iter(tokens)

    def __call__(self, logprobs: Any) -> Any:
        import mlx.core as mx

        return mx.full(logprobs.shape[:-1], next(self._tokens, 0), mx.uint32)


def _centred(rows: np.ndarray) -> np.ndarray:
    centred: np.ndarray = rows - rows.mean(axis=-1, keepdims=True, dtype=np.float64)
    return centred


def _unmoved(model: Any, ids: list[int], logits: np.ndarray, seed: int) -> list[str]:
    """Names of weights whose values can each move by 5 % without a logit that tells of it."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    unmoved = []
    for place, (name, array) in enumerate(tree_flatten(model.parameters())):
        if not mx.issubdtype(array.dtype, mx.floating):
            continue
        signs = mx.random.bernoulli(0.5, array.shape, key=mx.random.key(seed + place))
        model.load_weights([(name, array * mx.where(signs, 1 + MOVE, 1 - MOVE))], strict=False)
        if distance(_logits(model, ids), logits) <= BOUND:
            unmoved.append(name)
        model.load_weights([(name, array)], strict=False)
    return unmoved
