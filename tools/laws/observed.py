"""Laws of the instrument: what a trace shows is what the model did, and watching changes nothing.

The bound on a map is that of `tools.tolerances`, the one that `trace` itself holds maps to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from tools import attention, tolerances
from tools.attention import AttentionCall
from tools.laws.cached import BITS, GROUP, quantisable
from tools.laws.finding import Case, Finding, law, same, vacuous, within, without
from tools.laws.forward import LEAST_SPREAD
from tools.laws.runs import in_pieces, logits_of
from tools.recording import output_replaced
from tools.trace import attention_calls, trace
from tools.trace_notes import layers_of


@law
def attention_is_reproduced(case: Case) -> Finding:
    """Every layer's maps, applied to its values, give its own attention output: no layer that
    attends is unseen."""
    seen = trace(case.model, case.token_ids, verify=False)
    if seen.unseen:
        return same("layers whose attention cannot be seen", sorted(seen.unseen), [])
    if seen.note:
        return without(seen.note)
    return _reproduced(attention_calls(case.model, case.token_ids))


@law
def a_decode_step_is_reproduced(case: Case) -> Finding:
    """So do the maps of the last token alone, with all that came before in a cache."""
    _, cache = in_pieces(case.model, case.token_ids, [len(case.token_ids) - 1])
    calls = attention_calls(case.model, case.token_ids[-1:], cache)
    return _reproduced(calls) if any(calls) else without("no layer attends by softmax")


@law
def quantised_attention_is_reproduced(case: Case) -> Finding:
    """So do the maps over keys and values that a quantised cache gives out."""
    half = len(case.token_ids) // 2
    _, cache = in_pieces(case.model, case.token_ids, [half])
    packed = [i for i, entry in enumerate(cache) if quantisable(entry)]
    if not packed:
        return without("none of its caches can be quantised")
    for i in packed:
        cache[i] = cache[i].to_quantized(group_size=GROUP, bits=BITS)
    return _reproduced(attention_calls(case.model, case.token_ids[half:], cache))


@law
def tracing_changes_nothing(case: Case) -> Finding:
    """Logits of a traced pass, and of the next one, are those of a plain one, to the bit; so are
    those of a step with a cache."""
    ids, before = case.token_ids, len(case.token_ids) - 1
    caches = [in_pieces(case.model, ids, [before])[1] for _ in range(2)]
    plain = [case.logits, case.logits, logits_of(case.model, ids[before:], caches[0])]
    watched = [
        trace(case.model, ids).logits,
        logits_of(case.model, ids),
        trace(case.model, ids[before:], caches[1]).logits,
    ]
    if tolerances.distance(case.logits[:-1], case.logits[1:]) < LEAST_SPREAD:
        return vacuous("all logits are alike")
    missed = max(map(tolerances.distance, watched, plain))
    return within("distance of traced logits from plain ones", missed, 0)


@law
def states_are_the_layers_outputs(case: Case) -> Finding:
    """Each layer's traced state, put in place of its output, gives the model's own logits."""
    states = trace(case.model, case.token_ids, verify=False).hidden_states
    worst, moved = 0.0, np.inf
    for layer, state in zip(layers_of(case.model), states, strict=True):
        put = [0]
        with output_replaced(layer, _putting(state, put)):
            logits = logits_of(case.model, case.token_ids)
        if not put[0]:
            return without("it uses the parts of its layers without calling the layers")
        with output_replaced(layer, _putting(np.roll(state, 1, axis=0), put)):
            moved = min(moved, tolerances.distance(logits_of(case.model, case.token_ids), logits))
        worst = max(worst, tolerances.distance(logits, case.logits))
    if moved < LEAST_SPREAD:
        return vacuous(f"a layer's states put one token later move the logits by {moved:.2g}")
    return within("distance of logits from traced states", worst, case.exact)


def _reproduced(layers: list[list[AttentionCall]]) -> Finding:
    errors, bounds, moved = [], [], np.inf
    for call in (call for calls in layers for call in calls):
        weights, _ = attention.weigh(call)
        errors.append(attention.reconstruction_error(weights, call.values, call.output))
        bounds.append(tolerances.reconstruction(call.dtype, keys=call.shape[-1]))
        # The same weights, each on the key after its own: what the law has to tell apart.
        other = np.roll(weights, 1, axis=-1)
        moved = min(moved, attention.reconstruction_error(other, call.values, call.output))
    if moved < LEAST_SPREAD:
        return vacuous(f"weights moved by one key miss the output by only {moved:.2g}")
    worst = int(np.argmax(np.divide(errors, bounds)))  # the first NaN, where there is one
    return within("distance of maps times values from attention", errors[worst], bounds[worst])


def _putting(state: np.ndarray, put: list[int]) -> Callable[[Any], Any]:
    """Replaces a layer's output by `state`, (tokens, width), in the layout that it has."""

    def replace(output: Any) -> Any:
        if isinstance(output, (tuple, list)):
            return type(output)([replace(output[0]), *output[1:]])
        put[0] += 1
        axis = 1 if output.shape[1] == len(state) else output.shape.index(len(state))
        first = mx.moveaxis(output, axis, 0)
        return mx.moveaxis(mx.array(state).reshape(first.shape), 0, axis).astype(output.dtype)

    return replace
