"""Laws of the instrument: what a trace shows is what the model did, and watching changes nothing.

The bound on a map is that of `llm_spec.numerics.tolerances`, to which `trace` itself holds maps.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from llm_spec.laws.case import Case
from llm_spec.laws.execution import declare_pass, logits_of
from llm_spec.laws.finding import (
    Finding,
    law,
    law_of_code,
    not_applicable,
    same,
    vacuous,
    within,
    within_exactness,
)
from llm_spec.laws.model.cache import BITS, GROUP, filled, quantisable
from llm_spec.laws.model.forward import LEAST_SPREAD
from llm_spec.numerics import distances
from llm_spec.observe import attention
from llm_spec.observe.attention import AttentionCall
from llm_spec.observe.attention_maps import allowed_error
from llm_spec.observe.hooks import output_replaced
from llm_spec.observe.recorder import layers_of
from llm_spec.observe.trace import Trace, attention_calls, trace


def _traced(case: Case) -> Trace:
    return trace(case.model, case.token_ids, verify=False)


@law
def attention_is_reproduced(case: Case) -> Finding:
    """Attention maps, applied to the values, reproduce each layer's attention output, and every
    layer that attends is observed."""
    seen = case.once(_traced)
    if seen.unseen:
        return same("layers whose attention cannot be observed", sorted(seen.unseen), [])
    if seen.note:
        return not_applicable(seen.note)
    return _reproduced(attention_calls(case.model, case.token_ids))


@law_of_code
def a_decode_step_is_reproduced(case: Case) -> Finding:
    """The maps of a decode step, applied to the cached values, give the attention output."""
    cache = copy.deepcopy(case.once(filled, len(case.token_ids) - 1))
    calls = attention_calls(case.model, case.token_ids[-1:], cache)
    return _reproduced(calls) if any(calls) else not_applicable("no layer attends by softmax")


@law_of_code
def quantised_attention_is_reproduced(case: Case) -> Finding:
    """The maps over a quantised KV cache, applied to its values, give the attention output."""
    half = len(case.token_ids) // 2
    cache = copy.deepcopy(case.once(filled, half))
    packed = [i for i, entry in enumerate(cache) if quantisable(entry)]
    if not packed:
        return not_applicable("none of its caches can be quantised")
    for i in packed:
        cache[i] = cache[i].to_quantized(group_size=GROUP, bits=BITS)
    return _reproduced(attention_calls(case.model, case.token_ids[half:], cache))


@law_of_code
def tracing_changes_nothing(case: Case) -> Finding:
    """Logits of a traced pass, of a traced decode step, and of the next pass are bit-identical to
    those without tracing."""
    ids, before = case.token_ids, len(case.token_ids) - 1
    cache, other = (copy.deepcopy(case.once(filled, before)) for _ in range(2))
    step = logits_of(case.model, ids[before:], other)
    plain = [case.logits, step, case.logits]
    watched = [
        case.once(_traced).logits,
        trace(case.model, ids[before:], cache).logits,
        logits_of(case.model, ids),
    ]
    if distances.distance(case.logits[:-1], case.logits[1:]) < LEAST_SPREAD:
        return vacuous("all logits are alike")
    missed = distances.worst(map(distances.distance, watched, plain))
    return within("distance of traced logits from plain ones", missed, 0)


@law_of_code
def states_are_the_layers_outputs(case: Case) -> Finding:
    """Replacing a layer's output by its traced hidden state changes neither the next layer's
    output nor the logits."""
    states, calls = case.once(_traced).hidden_states, _calls(case)
    outputs, logits = _handing_on(case, states, calls.copy())
    if len(outputs) < len(states):
        return not_applicable("it uses the parts of its layers without calling the layers")
    later = [np.roll(state, 1, axis=0) for state in states]
    moved_outputs, moved_logits = _handing_on(case, later, calls)
    pairs = [*((outputs[i], state) for i, state in enumerate(states)), (logits, case.logits)]
    # The first layer is handed embeddings, which nobody moved.
    moved = [(moved_outputs[i], state) for i, state in enumerate(states) if i]
    least = min(distances.distance(*pair) for pair in [*moved, (moved_logits, case.logits)])
    if least < LEAST_SPREAD:
        return vacuous(f"states put one token later move what comes next by {least:.2g}")
    worst = distances.worst(distances.distance(*pair) for pair in pairs)
    return within_exactness("distance from what traced states hand on", worst, case)


def _handing_on(
    case: Case, states: Sequence[np.ndarray], calls: Counter[int]
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Let every layer hand on its state, (tokens, width), in place of the output of the last of its
    `calls`, which are counted down.

    Returns what each layer that was called had computed, in the form of its state, and the logits.
    """
    outputs: dict[int, np.ndarray] = {}

    def put(layer: int, output: Any) -> Any:
        if isinstance(output, (tuple, list)):
            return type(output)([put(layer, output[0]), *output[1:]])
        calls[layer] -= 1
        if calls[layer]:  # a model that runs its layers several times: the state is the last one's
            return output
        state = states[layer]
        axis = 1 if output.shape[1] == len(state) else output.shape.index(len(state))
        first = mx.moveaxis(output, axis, 0)
        outputs[layer] = np.array(first.astype(mx.float32)).reshape(state.shape)
        handed = mx.array(state).reshape(first.shape)
        return mx.moveaxis(handed, 0, axis).astype(output.dtype)

    with _outputs_replaced(case, put):
        return outputs, logits_of(case.model, case.token_ids)


def _calls(case: Case) -> Counter[int]:
    """How often a pass calls each layer."""
    calls: Counter[int] = Counter()

    def count(layer: int, output: Any) -> Any:
        calls[layer] += 1
        return output

    with _outputs_replaced(case, count):
        declare_pass(case.model, case.token_ids)
    return calls


@contextmanager
def _outputs_replaced(case: Case, replace: Callable[[int, Any], Any]) -> Iterator[None]:
    """Every layer returns `replace(i, output)` while the context is open."""
    with ExitStack() as replaced:
        for i, layer in enumerate(layers_of(case.model)):
            replaced.enter_context(output_replaced(layer, partial(replace, i)))
        yield


def _reproduced(layers: list[list[AttentionCall]]) -> Finding:
    errors, bounds, moved = [], [], np.inf
    for call in (call for calls in layers for call in calls):
        weights, _ = attention.recompute_weights(call)
        errors.append(attention.reconstruction_error(weights, call.values, call.output))
        bounds.append(allowed_error(call, errors[-1]))
        # The same weights, each on the key after its own: what the law has to tell apart.
        other = np.roll(weights, 1, axis=-1)
        moved = min(moved, attention.reconstruction_error(other, call.values, call.output))
    if moved < LEAST_SPREAD:
        return vacuous(f"weights moved by one key miss the output by only {moved:.2g}")
    worst = int(np.argmax(np.divide(errors, bounds)))  # the first NaN, where there is one
    if errors[worst] <= bounds[worst] and moved <= max(bounds):
        return not_applicable(
            f"its scores are so large that their rounding ({max(bounds):.2g}) hides a wrong map"
        )
    return within("distance of maps times values from attention", errors[worst], bounds[worst])
