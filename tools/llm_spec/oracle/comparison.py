"""Logits of both sides beside each other: whole, cached token by token, in chunks, in a batch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_spec.numerics.distances import distance
from llm_spec.oracle import twins
from llm_spec.oracle.pair import BOUND, Mend, Outcome, Pair

CHUNK = 10  # tokens of a prefill step: no divisor of a window or of a prompt

CANNOT = (Exception, SystemExit)  # mlx-lm's olmo ends the process where a package is missing


def compare(pair: Pair, mend: Mend | None = None, ways: bool = True) -> Outcome:
    """Hold mlx-lm to transformers on one tiny model.

    Args:
        mend: run in this process before a side is made.
        ways: whether to feed mlx-lm token by token, in chunks and in a batch, too.
    """
    if mend:
        mend()
    try:
        model = twins.build(pair)
        vocabulary = _vocabulary(model)
        asked = {n: twins.prompt(vocabulary, n, pair.seed) for n in pair.lengths}
        reference = {n: twins.theirs(model, [ids])[0] for n, ids in asked.items()}
    except CANNOT as error:
        return Outcome("not built", one_line(error), "transformers")
    with tempfile.TemporaryDirectory() as folder:
        try:
            twins.write(model, pair, Path(folder))
        except CANNOT as error:
            return Outcome("not written", one_line(error), "transformers")
        try:
            ours, _ = twins.load(Path(folder))
        except CANNOT as error:
            return Outcome("not loaded", one_line(error), "mlx-lm")
    try:
        found = {
            way: {n: distance(ours_, reference[n]) for n, ours_ in got}
            for way, got in _ways(ours, asked, ways)
        }
        whole = _logits(ours, asked[max(asked)])
    except CANNOT as error:
        return Outcome("not computed", one_line(error), "mlx-lm")
    rows = [distance(a[None], b[None]) for a, b in zip(whole, reference[max(asked)], strict=True)]
    first = next((i for i, row in enumerate(rows) if not row <= BOUND), None)
    return Outcome("compared", distances=found, first=first)


def one_line(error: BaseException) -> str:
    """An exception in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


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
