"""Laws of one forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm.generate import does_model_support_input_embeddings

from llm_spec.laws.case import Case
from llm_spec.laws.execution import batch_logits, declare_pass, logits_of
from llm_spec.laws.finding import (
    Finding,
    law,
    law_of_code,
    law_of_numbers,
    law_of_storage,
    not_applicable,
    same,
    vacuous,
    within,
    within_exactness,
    within_rounding,
)
from llm_spec.laws.model.storage import Silent
from llm_spec.model.config import text_config
from llm_spec.numerics import distances
from llm_spec.observe.hooks import output_replaced, watched
from llm_spec.observe.recorder import layers_of

LEAST_SPREAD = 1e-3


@law_of_numbers
def finite_logits(case: Case) -> Finding:
    """Every token gets one finite logit per entry of the vocabulary, and logits differ.

    A model may rule out ids for good with -inf (phi3small does), but the same ids everywhere.
    """
    logits = case.logits
    ruled_out = np.isneginf(logits).all(axis=0)
    if ruled_out.all():
        return within("logits that are not finite", logits.size, 0)
    spread = logits[:, ~ruled_out].std(axis=0).max()
    if np.isfinite(spread) and spread < LEAST_SPREAD:
        return vacuous(f"logits differ between tokens by {spread:.2g}")
    config = text_config(case.config)
    wanted = (len(case.token_ids), config.get("vocab_size", logits.shape[-1]))
    if logits.shape != wanted:
        return same("shape of the logits", logits.shape, wanted)
    bad = ~np.isfinite(logits) & ~ruled_out
    return within("logits that are not finite", int(bad.sum()), 0)


@law
def determinism(case: Case) -> Finding:
    """The same tokens give bit-identical logits."""
    if not np.isfinite(case.logits).any() or np.ptp(case.logits[0]) == 0:
        return vacuous("all logits are equal")
    again = logits_of(case.model, case.token_ids)
    return within("distance of a repeated pass", distances.distance(again, case.logits), 0)


@law_of_code
def causality(case: Case) -> Finding:
    """Changing later tokens changes no earlier logit, and does change later ones."""
    logits, ids = case.logits, case.token_ids
    vocabulary = max(ids) + 1
    worst = 0.0
    for first in (len(ids) // 2, len(ids) - 1):
        other = ids[:first] + [(id_ + vocabulary // 3 + 1) % vocabulary for id_ in ids[first:]]
        changed = logits_of(case.model, other)
        if distances.distance(changed[first:], logits[first:]) < LEAST_SPREAD:
            return vacuous(f"the logits from token {first} on do not depend on it")
        worst = distances.worst((worst, distances.distance(changed[:first], logits[:first])))
    return within_exactness("change of logits before the changed token", worst, case)


@law
def rows_are_independent(case: Case) -> Finding:
    """Batched logits equal single-sequence logits when prompt lengths are equal."""
    ids = case.token_ids
    rows = [ids, ids[::-1]]
    together = batch_logits(case.model, rows)
    if distances.distance(together[0], together[1]) < LEAST_SPREAD:
        return vacuous("both rows give the same logits")
    what = "distance of a row in a batch from the row alone"
    found = [  # a model that chooses jumps where a choice is close: on one text, not on the other
        within_rounding(what, distances.distance(row, alone.logits), alone)
        for row, alone in zip(together, (case, case.on(rows[1])), strict=True)
    ]
    return max(found, key=lambda each: (each.holds is False, each.holds is None, each.measured))


@law_of_code
def embeddings_are_token_ids(case: Case) -> Finding:
    """Input embeddings give the same logits as the token ids they were looked up from, and
    embeddings of other tokens give other logits."""
    if not does_model_support_input_embeddings(case.model):
        return not_applicable("it takes no input embeddings")
    embeddings = looked_up(case.model, case.token_ids)
    missed_by_scale = (
        distances.distance(
            logits_of(case.model, case.token_ids, input_embeddings=scale * embeddings), case.logits
        )
        for scale in scales_of(case.model, case.token_ids, embeddings)
    )
    missed = least_needed(missed_by_scale, case.reordered)
    fed = within_rounding("distance of logits from embeddings to those of ids", missed, case)
    if not fed.holds:
        return fed
    other = logits_of(case.model, case.token_ids, input_embeddings=embeddings[:, ::-1])
    moved = distances.distance(other, case.logits)
    return same("embeddings that are fed", "used" if moved > LEAST_SPREAD else "ignored", "used")


@law_of_storage
def half_precision_is_kept(case: Case) -> Finding:
    """A model in bfloat16 computes its logits in bfloat16: nothing promotes the residual stream."""
    if case.is_packed:
        return not_applicable("its weights are quantised")
    parameters = case.model.parameters()

    def halved(array: mx.array) -> mx.array:
        floating = mx.issubdtype(array.dtype, mx.floating)
        return array.astype(mx.bfloat16) if floating else array

    try:
        case.model.update(tree_map(halved, parameters))
        logits = case.model(mx.array([case.token_ids]))  # declared; its type is known unevaluated
    finally:
        case.model.update(parameters)
    logits = logits[0] if isinstance(logits, tuple) else logits
    return same("type of the logits", logits.dtype, mx.bfloat16)


def scales_of(model: nn.Module, token_ids: list[int], embeddings: mx.array) -> set[float]:
    """What a caller may have to multiply embeddings by, (1, tokens, width) as the table gave them:
    by 1, or by what the model itself multiplies them by on the way to its first layer.

    Gemma's descendants scale by the root of the width: some what they are given, some not.
    """
    first = layers_of(model)[0]
    given: list[mx.array] = []

    class Watch(Silent):
        def entered(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            arrays = [part for part in (*args, *kwargs.values()) if isinstance(part, mx.array)]
            if module is first and arrays and not given:
                given.append(arrays[0][...])

    with watched(model, None, Watch()):
        declare_pass(model, token_ids)
    stream = given[0].astype(mx.float32) if given else embeddings
    stream = stream[0] if stream.ndim == 4 else stream  # the first of several streams
    table = embeddings.astype(mx.float32)
    if stream.shape != table.shape:
        return {1.0}
    scale = float((stream * table).sum() / (table * table).sum())
    missed = float(mx.abs(stream - scale * table).max() / mx.abs(stream).max())
    return {1.0, scale} if missed <= LEAST_SPREAD * 10 else {1.0}


def least_needed(distances: Iterable[float], bound: float) -> float:
    """The first distance within `bound`, or the least of all; later ones are not computed."""
    least = float("inf")
    for distance in distances:
        least = min(least, distance)
        if least <= bound:
            break
    return least


def looked_up(model: nn.Module, token_ids: list[int]) -> mx.array:
    """(1, tokens, width): what the first embedding table to be asked gives for the ids."""
    given: list[mx.array] = []

    def keep(output: mx.array) -> mx.array:
        given.append(mx.array(output))  # a copy: models scale their embeddings in place
        return output

    with ExitStack() as watches:
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
                watches.enter_context(output_replaced(module, keep))
        declare_pass(model, token_ids)
    return given[0]
