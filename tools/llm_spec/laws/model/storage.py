"""Laws of storage: a model that is written, read, packed and unpacked stays the model it was."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm import utils as loading

from llm_spec.laws.case import Case
from llm_spec.laws.execution import declare_pass, logits_of
from llm_spec.laws.finding import (
    Finding,
    law,
    law_of_numbers,
    law_of_storage,
    not_applicable,
    same,
    vacuous,
    within,
    within_rounding,
)
from llm_spec.laws.model.round_trip import reloaded
from llm_spec.model.float32 import evaluate, shared_copy
from llm_spec.numerics import device, distances
from llm_spec.observe.hooks import watched
from llm_spec.observe.inputs import locate_non_finite
from llm_spec.observe.recorder import layers_of

GROUP, BITS = 32, 8
SMALLEST_GROUP = 32  # weights, of affine quantisation: all other groups are multiples
ROOM = 2**26  # bytes of a model of which a third copy may be held
FEW = 8  # tokens for packed products, which a CPU computes thirty times slower
MANY = (64, 256)  # tokens, to reach experts that few of them are sent to: some, or else all
HUGE = 8  # an array above a part in as many of a large model has a gradient that is too large
SAMPLED = 64  # weights of an array that tell most layers apart
MENTIONED = 3  # arrays without an effect, after which the search ends
NOTHING = 1e-30  # a number that no sum notices: microscaling scales of zero leave one
ROUNDING = 0.2  # what 8 bits may move the median token: routed experts of a random model flip


@law_of_storage
def reloaded_is_the_same(case: Case) -> Finding:
    """A model saved and reloaded gives the same logits."""
    if not case.config:
        return not_applicable("no configuration to write")
    again = logits_of(reloaded(case.model, case.config), case.token_ids)
    # Not to the bit: baichuan_m1 divides its head by norms that are one already, but for rounding.
    missed = distances.distance(again, case.logits)
    return within_rounding("distance of the reloaded logits", missed, case)


@law
def quantised_is_the_same_rounded(case: Case) -> Finding:
    """Quantisation packs weights and changes the logits by little; saved and reloaded, or
    dequantised, the model still gives those logits."""
    if not case.config:
        return not_applicable("no configuration to write")
    if _packed(case.model):
        return not_applicable("its weights are quantised already")
    packed, config = _quantised(case.model, case.config)
    if not _packed(packed):
        return same("modules that quantisation packed", 0, "some")
    # Of few tokens most may be sent to other experts than before, of many few are.
    size = _size(case.model)
    ids = case.token_ids[:FEW] if size > ROOM else case.token_ids
    logits = logits_of(packed, ids)
    usual = case.logits if ids is case.token_ids else logits_of(case.model, ids)
    moved = _median_distance(logits, usual)
    if not moved <= ROUNDING:
        return within(f"distance of the median token at {BITS} bits", moved, ROUNDING)
    if not moved:
        return vacuous("quantisation changed no logit")
    again = reloaded(packed, config)
    # As many tokens on both sides: phi3small attends otherwise where more follow.
    missed = distances.distance(logits_of(again, ids[:FEW]), logits_of(packed, ids[:FEW]))
    what = "distance of the reloaded quantised logits"
    if size > ROOM:
        what += f"; not dequantised: {size / 2**20:,.0f} MiB are above {ROOM // 2**20}"
    kept = within_rounding(what, missed, case)
    if not kept.holds or size > ROOM:
        return kept
    # Of the model that came back: what FEW tokens do not reach is compared here.
    unpacked = logits_of(loading.dequantize_model(again), ids)
    missed = _median_distance(unpacked, logits)
    # In a half type unpacking rounds every weight, and so moves logits as a rounding does.
    return within_rounding("distance of the dequantised model's logits", missed, case, times=2)


@law_of_numbers
def weights_are_finite(case: Case) -> Finding:
    """No weight is NaN or infinite."""
    found = "; ".join(map(str, locate_non_finite(case.model)[:3]))
    return same("weights that are not finite", found or "none", "none")


@law
def every_layer_acts(case: Case) -> Finding:
    """Every layer changes its input."""
    layers = {id(layer): i for i, layer in enumerate(layers_of(case.model))}
    idle: dict[int, list[mx.array]] = {}

    class Watch(Silent):
        def left(self, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            if (layer := layers.get(id(module))) is None:
                return
            stream = output[0] if isinstance(output, tuple) else output
            given = next((x for x in args if isinstance(x, mx.array)), None)
            if given is not None and isinstance(stream, mx.array) and given.shape == stream.shape:
                idle.setdefault(layer, []).append(mx.array_equal(given, stream))

    with watched(case.model, None, Watch()):
        declare_pass(case.model, case.token_ids)
    if not idle:
        return not_applicable("none of its layers takes a stream and gives one")
    mx.eval(idle)
    named = ", ".join(str(i) for i in sorted(idle) if all(flag.item() for flag in idle[i]))
    return same("layers that do not change their input", named or "none", "none")


class Silent:
    """A watcher of a pass that notes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@law_of_storage
def layers_differ(case: Case) -> Finding:
    """No two layers hold the same weights."""
    layers = layers_of(case.model)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        weights = dict(tree_flatten(layer.parameters()))
        if not weights:
            continue
        key = tuple((path, array.shape, _sample(array)) for path, array in weights.items())
        for other in alike.setdefault(key, []):
            held = dict(tree_flatten(layers[other].parameters()))
            shared = layer is layers[other]
            if not shared and all(mx.array_equal(weights[p], held[p]).item() for p in weights):
                return same("layers with the same weights", f"{other} and {i}", "none")
        alike[key].append(i)
    return same("layers with the same weights", "none", "none")


@law
def every_weight_matters(case: Case) -> Finding:
    """Every weight tensor affects the logits."""
    model = case.model
    if _packed(model):
        scales = [(p, a) for p, a in tree_flatten(model.parameters()) if p.endswith("scales")]
        empty = [f"{path} (all zero)" for path, array in scales if not mx.any(array != 0).item()]
        if empty:
            return same("weight tensors without an effect", ", ".join(empty[:MENTIONED]), "none")
        return not_applicable("its weights are quantised")
    token_ids = mx.array([case.token_ids])

    def loss(parameters: dict[str, Any]) -> mx.array:
        model.update(parameters)
        logits = model(token_ids)
        logits = logits[0] if isinstance(logits, tuple) else logits
        logits = mx.where(mx.isinf(logits), 0, logits)
        return (logits * mx.sin(mx.arange(logits.shape[-1]))).sum()

    kept = tree_flatten(model.parameters())  # where a pass raises, mx.grad leaves tracers
    room = max(ROOM, sum(array.nbytes for _, array in kept) // HUGE)
    parameters = tree_unflatten([(path, array) for path, array in kept if array.nbytes <= room])
    try:
        # The flags alone are kept: gradients are let go one by one.
        felt = tree_map(lambda gradient: mx.any(gradient != 0), mx.grad(loss)(parameters))
        mx.eval(felt)
    except ValueError as error:
        if "vjp" not in str(error).lower():  # the pass itself failed
            raise
        return not_applicable(f"it has no gradient: {error}")
    finally:
        model.update(tree_unflatten(kept))
    idle = [path for path, flag in tree_flatten(felt) if not flag.item()]
    idle += [path for path, array in kept if array.nbytes > room and not _turned(case, path, array)]
    idle = _still(case, idle)
    # A matrix of zeros has an effect, if it were another, and takes it from others: it comes first.
    zero = [f"{path} (all zero)" for path in _matrices_of_zeros(kept)] if idle else []
    flat = [f"{path} (scales all zero)" for path, array in kept if _is_flat(path, array)]
    found = ", ".join([*zero[:MENTIONED], *flat[:MENTIONED], *idle]) or "none"
    return same("weight tensors without an effect", found, "none")


def _matrices_of_zeros(arrays: list[tuple[str, mx.array]]) -> list[str]:
    """The matrices, and scales of norms, that hold nothing; a bias of zeros is an ordinary one."""
    weights = [(path, array) for path, array in arrays if path.endswith("weight")]
    return [path for path, array in weights if not mx.any(mx.abs(array) > NOTHING).item()]


def _is_flat(path: str, array: mx.array) -> bool:
    """Whether a matrix has one value per quantisation group, and not one in all: scales that are
    zero leave the biases of the groups."""
    if not path.endswith("weight") or array.ndim < 2 or array.shape[-1] % SMALLEST_GROUP:
        return False
    groups = array.reshape(-1, SMALLEST_GROUP)
    is_flat = mx.all(groups == groups[:, :1]).item()
    return bool(is_flat and mx.any(groups[:, 0] != groups[0, 0]).item())


def _turned(case: Case, path: str, array: mx.array) -> bool:
    """Whether the logits change when the rows of an array are turned round. An array whose gradient
    would fill the memory is judged so."""
    device.give_back_memory()
    turned = (path, mx.contiguous(array[..., ::-1]))  # or each product makes a copy of it
    return not _is_as_usual(case, turned, array, case.token_ids, case.logits)


def _still(case: Case, paths: list[str]) -> list[str]:
    """Which of the arrays can be changed without a change of the logits.

    Routing knows no gradient, and an expert is idle until a token is sent to it: so the arrays are
    changed in earnest, and where the case's own text tells no difference, many tokens are read.
    """
    if not paths:
        return []
    weights = dict(tree_flatten(case.model.parameters()))
    many = np.random.default_rng(0).permutation(case.logits.shape[-1]).tolist()
    usual = functools.cache(lambda tokens: logits_of(case.model, many[:tokens]))

    def is_still(path: str) -> bool:
        array = weights[path]
        shift = mx.random.normal(array.shape, key=mx.random.key(0)).astype(array.dtype)
        other = array + 3 * shift
        return _is_as_usual(case, (path, other), array, case.token_ids, case.logits) and all(
            _is_as_usual(case, (path, other), array, many[:tokens], usual(tokens))
            for tokens in MANY
        )

    return list(itertools.islice(filter(is_still, paths), MENTIONED))


def _is_as_usual(
    case: Case, other: tuple[str, mx.array], array: mx.array, ids: list[int], logits: np.ndarray
) -> bool:
    """Whether the model gives these logits with another array of that name in the array's place."""
    try:
        case.model.load_weights([other], strict=False)
        return np.array_equal(logits_of(case.model, ids), logits)
    finally:
        case.model.load_weights([(other[0], array)], strict=False)


def _sample(array: mx.array) -> tuple[float, ...]:
    """A few of the weights: layers that differ in them need not be compared whole."""
    flat = array.reshape(-1)
    few = flat[:: max(1, flat.size // SAMPLED)].astype(mx.float32)
    return tuple(np.array(few).tolist())


def _packed(model: nn.Module) -> int:
    return sum("scales" in module for _, module in model.named_modules())


def _median_distance(logits: np.ndarray, reference: np.ndarray) -> float:
    rows = [
        distances.distance(row, wanted)
        for row, wanted in zip(logits[:, None], reference[:, None], strict=True)
    ]
    return float(np.median(rows))


def _size(model: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def _quantised(model: nn.Module, config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A packed copy of `model`, and its configuration."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
        how = (copy.deepcopy(config), GROUP, BITS)
        packed, config = loading.quantize_model(shared_copy(model), *how)
    evaluate(packed)
    return packed, config
