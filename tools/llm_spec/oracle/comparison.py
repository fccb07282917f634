"""Logits of both sides beside each other: whole, cached token by token, in chunks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_spec.numerics.distances import distance, worst
from llm_spec.oracle import twins
from llm_spec.oracle.pair import BOUND, Mend, Outcome, Pair

CHUNK = 10  # tokens of a prefill step: no divisor of a window or of a prompt

MOVE = 0.05  # of each value of a weight, up or down
CANNOT = (Exception, SystemExit)  # mlx-lm's olmo ends the process where a package is missing


def compare(
    pair: Pair,
    mend: Mend | None = None,
    ways: bool = True,
    move: bool = False,
    beside: Pair | None = None,
) -> Outcome:
    """Hold mlx-lm to transformers on one tiny model.

    Args:
        mend: run in this process before a side is made.
        ways: whether to feed mlx-lm token by token and in chunks, too.
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
        found = {
            way: {n: distance(ours_, reference[n]) for n, ours_ in got}
            for way, got in _ways(ours, asked, ways)
        }
        whole = _logits(ours, asked[max(asked)])
        unmoved = _unmoved(ours, asked[max(asked)], whole, pair.seed) if move else None
    except CANNOT as error:
        return Outcome("not computed", one_line(error), "mlx-lm", unwritten=unwritten)
    rows = [distance(a[None], b[None]) for a, b in zip(whole, reference[max(asked)], strict=True)]
    first = next((i for i, row in enumerate(rows) if not row <= BOUND), None)
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


def _ways(
    model: Any, asked: dict[int, list[int]], all_of_them: bool
) -> Iterator[tuple[str, list[tuple[int, np.ndarray]]]]:
    yield "whole", [(n, _logits(model, ids)) for n, ids in asked.items()]
    if not all_of_them:
        return
    yield "cached", [(n, _fed(model, ids, 1)) for n, ids in asked.items()]
    yield "chunked", [(n, _fed(model, ids, CHUNK)) for n, ids in asked.items()]


def _fed(model: Any, ids: list[int], step: int) -> np.ndarray:
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    pieces = [_logits(model, ids[i : i + step], cache) for i in range(0, len(ids), step)]
    return np.concatenate(pieces)


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
