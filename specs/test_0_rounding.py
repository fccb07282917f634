"""Experiment 0: laws tolerate rounding, and rounding hides no fault."""

import contextlib
import io

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm import utils as loading
from mlx_lm.models import llama

from fixtures.planted import PROMPT
from fixtures.synthetic.architectures import build_architecture
from fixtures.synthetic.look_alikes import LARGE, with_a_large_vocabulary, with_large_scores
from llm_spec.laws import Case, execution
from llm_spec.laws import case as case_module
from llm_spec.laws.model import batch, cache, forward, generation, serving, tracing
from llm_spec.model import float32, quantisation
from llm_spec.numerics import distances, tolerances
from llm_spec.observe import attention
from llm_spec.observe.attention_maps import allowed_error
from llm_spec.observe.trace import attention_calls


def added_backwards(monkeypatch):
    """Let the model add its scores in the reverse order, as another device's kernel may."""
    attend = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention",
        lambda q, k, v, **how: attend(q[..., ::-1], k[..., ::-1], v, **how),
    )  # fmt: skip


def forget_the_scores(monkeypatch):
    bound = tolerances.reconstruction
    monkeypatch.setattr(tolerances, "reconstruction", lambda dtype, keys=0, *_: bound(dtype, keys))


@pytest.mark.claim(id="0.64", falsifier=forget_the_scores)
def test_maps_of_large_scores_are_accepted_and_wrong_ones_are_not(exhibit, monkeypatch):
    """The scores are added in two orders. A wrong map is one whose scores are off by 1 %."""
    case = case_of(with_large_scores())
    added_backwards(monkeypatch)
    calls = [call for layer in attention_calls(case.model, case.token_ids) for call in layer]
    score = max(map(attention.largest_score, calls))
    errors = [error_of(call) for call in calls]
    allowed = [allowed_error(call, error) for call, error in zip(calls, errors, strict=True)]
    usual = tolerances.reconstruction(mx.float32)
    weights_of = attention.attention_weights
    own = tracing.attention_is_reproduced(case)
    with monkeypatch.context() as patch:
        patch.setattr(
            attention, "attention_weights",
            lambda q, k, mask, scale, *rest, **how: weights_of(
                q, k, mask, 1.01 * scale, *rest, **how
            ),
        )  # fmt: skip
        wrong = tracing.attention_is_reproduced(case)
    exhibit.table(
        [["largest score", score], ["map against output", distances.worst(errors)],
         ["allowed whatever the score", usual], ["allowed at that score", max(allowed)],
         ["own map", own.says], ["scores off by 1 %", wrong.says]],
        columns=["", "tiny qwen2 with a key bias of 145"], title="large attention scores",
    )  # fmt: skip
    found = [own.holds, wrong.holds]

    says = exhibit.measured(
        "the law holds for the model's maps, for wrong maps", found, [True, False]
    )

    assert score > 1000, f"largest score = {score:.0f}, but should be above 1,000"
    assert distances.worst(errors) > usual, "the order of sums changes nothing, but should"
    assert found == [True, False], says


def case_of(built):
    model, config = built
    return Case(model, PROMPT, config)


def error_of(call):
    weights, _ = attention.recompute_weights(call)
    return attention.reconstruction_error(weights, call.values, call.output)


def compare_as_normalised(monkeypatch):
    monkeypatch.setattr(execution, "NORMALISER", 0.0)


OF_LOG_PROBABILITIES = (
    batch.batch_rows_are_alone,
    batch.batches_change_while_they_run,
    generation.generation_follows_the_logits,
    generation.a_prompt_cache_goes_on,
    serving.histories_are_taken_up,
    serving.rows_can_be_taken_away,
)


@pytest.mark.slow
@pytest.mark.claim(id="0.65", falsifier=compare_as_normalised)
def test_a_vocabulary_of_262144_keeps_the_laws_of_log_probabilities(exhibit):
    """MLX's own log-sum-exp is off by more than the laws allow; the laws normalise once more."""
    case = case_of(with_a_large_vocabulary("llama"))
    exact = execution.log_softmax(case.logits)
    mine = case.logits - np.array(mx.logsumexp(mx.array(case.logits), axis=-1, keepdims=True))
    off = distances.distance(mine, exact)
    findings = [law(case) for law in OF_LOG_PROBABILITIES]
    exhibit.table(
        [["MLX's own log-sum-exp", off, f"at most {case.reordered:.2g}"],
         *[[f.law, f.measured, f.should_be] for f in findings]],
        columns=["", "distance", "should be"], title=f"log-probabilities of {LARGE:,} ids",
    )  # fmt: skip
    red = [f.law for f in findings if not f.holds]

    says = exhibit.measured("laws that refute a healthy model", red, should_be=[])

    assert off > case.reordered, (
        f"error of MLX's log-sum-exp = {off:.2g}, but should exceed the bound"
    )
    assert not red, says


def with_a_coarse_layer():
    """A tiny llama whose second layer hands on multiples of 1/1000, as a model that rounds or
    chooses does: where a rounding moves a number past the middle, the number jumps."""
    model, config = build_architecture("llama")
    layer = model.layers[1]

    class Coarse(type(layer)):
        def __call__(self, *args, **kwargs):
            return mx.round(1000 * super().__call__(*args, **kwargs)) / 1000

    layer.__class__ = Coarse
    return Case(model, PROMPT, config)


def add_backwards_with_a_cache(monkeypatch):
    """A step with a cache adds its scores in the reverse order: a harmless difference."""
    attend = llama.scaled_dot_product_attention

    def attending(q, k, v, cache, **how):
        if cache is not None:
            q, k = q[..., ::-1], k[..., ::-1]
        return attend(q, k, v, cache=cache, **how)

    monkeypatch.setattr(llama, "scaled_dot_product_attention", attending)


def forget_the_offset(monkeypatch):
    rotate = nn.RoPE.__call__
    monkeypatch.setattr(nn.RoPE, "__call__", lambda self, x, offset=0: rotate(self, x, 0))


def see_no_jump(monkeypatch):
    monkeypatch.setattr(case_module, "rounding_noise", lambda *_: 0.0)


@pytest.mark.claim(id="0.66", falsifier=see_no_jump)
def test_a_model_is_excused_by_the_jump_that_a_rounding_makes_it_take(exhibit, monkeypatch):
    """Cached against uncached logits, which only the order of sums sets apart; then with a fault
    of positions."""
    case = with_a_coarse_layer()
    add_backwards_with_a_cache(monkeypatch)
    own = cache.cached_is_uncached(case)
    with monkeypatch.context() as patch:
        forget_the_offset(patch)
        faulty = cache.cached_is_uncached(case)
    exhibit.table(
        [["bound for nearly all models", case.reordered], ["noise of this one", case.noise],
         ["healthy", own.says], ["positions forgotten", faulty.says]],
        columns=["", "tiny llama with a coarse layer"], title="a model that jumps",
    )  # fmt: skip
    found = [own.holds, faulty.holds]

    says = exhibit.measured("the law holds for the model, for the fault", found, [True, False])

    assert own.measured > case.reordered, "the model does not jump, but should"
    assert found == [True, False], says


def unpack_in_bfloat16(monkeypatch):
    dequantised = loading.dequantize_model

    def rounded(model):
        model = dequantised(model)
        model.update(tree_map(lambda a: a.astype(mx.bfloat16), model.parameters()))
        return model

    monkeypatch.setattr(loading, "dequantize_model", rounded)


@pytest.mark.claim(id="0.67", falsifier=unpack_in_bfloat16)
def test_a_float32_copy_holds_what_packed_weights_stand_for(exhibit):
    """4-bit words and bfloat16 scales, multiplied out in float64; the model itself stays packed."""
    model, _ = packed_llama()
    copy = float32.float32_copy(model)
    missed = {}
    for path, module in model.named_modules():
        if "scales" in module:
            codes = quantisation.unpack(module.weight, module.bits).astype(np.float64)
            scales, biases = (
                np.repeat(np.array(part.astype(mx.float32), np.float64), module.group_size, -1)
                for part in (module.scales, module.biases)
            )
            held = dict(tree_flatten(copy.parameters()))[f"{path}.weight"]
            missed[path] = distances.distance(np.array(held), codes * scales + biases)
    exhibit.bars(missed, title="weights of the copy", axis="distance of a row / norm")
    allowed = 2 * float(np.finfo(np.float32).eps)  # one product and one sum round
    largest = distances.worst(missed.values())

    says = exhibit.measured("largest distance of a row", largest, f"at most {allowed:.1e}")

    assert float32.is_float32(copy), "the copy is not in float32 throughout"
    assert not float32.is_float32(model), "the model itself was unpacked"
    assert largest <= allowed, says


def packed_llama():
    model, config = build_architecture("llama")
    model.update(tree_map(lambda array: array.astype(mx.bfloat16), model.parameters()))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
        return loading.quantize_model(model, config, 32, 4)


def have_no_room(monkeypatch):
    monkeypatch.setattr(case_module, "float32_fits", lambda model: False)


@pytest.mark.claim(id="0.68", falsifier=have_no_room)
def test_what_bfloat16_hides_is_seen_on_the_float32_copy(exhibit, monkeypatch):
    """With a cache each layer's output is 0.3 % too large, which bfloat16 rounds away."""
    model, config = build_architecture("llama")
    model.update(tree_map(lambda array: array.astype(mx.bfloat16), model.parameters()))
    healthy = cache.cached_is_uncached(Case(model, PROMPT, config))
    run = llama.TransformerBlock.__call__

    def larger(self, x, mask=None, cache=None):
        return run(self, x, mask, cache) * (1.0 if cache is None else 1.003)

    monkeypatch.setattr(llama.TransformerBlock, "__call__", larger)
    faulty = cache.cached_is_uncached(Case(model, PROMPT, config))
    exhibit.table(
        [["healthy", healthy.says], ["0.3 % too large", faulty.says]],
        columns=["", "cached against uncached"], title="tiny llama in bfloat16",
    )  # fmt: skip
    found = [healthy.holds, faulty.holds, faulty.judged_in]

    wanted = [True, False, ("float32",)]

    says = exhibit.measured("holds healthy, holds faulty, seen in", found, should_be=wanted)

    assert found == wanted, says


def judge_by_the_unit_of_rounding(monkeypatch):
    monkeypatch.setattr(tolerances, "moved_by_rounding", lambda dtype, noise: 1.4)


@pytest.mark.claim(id="0.69", falsifier=judge_by_the_unit_of_rounding)
def test_faults_of_masks_and_positions_show_in_bfloat16_alone(exhibit, monkeypatch):
    """Where memory has no room for a float32 copy, the bound is what rounding measurably does."""
    have_no_room(monkeypatch)
    model, config = build_architecture("llama")
    model.update(tree_map(lambda array: array.astype(mx.bfloat16), model.parameters()))
    case = Case(model, PROMPT, config)
    healthy = [law(case) for law in (cache.cached_is_uncached, forward.rows_are_independent)]
    with monkeypatch.context() as patch:
        forget_the_offset(patch)
        faulty = cache.cached_is_uncached(Case(model, PROMPT, config))
    exhibit.table(
        [["noise of one rounding", case.noise], *[[f.law, f.says] for f in healthy],
         ["positions forgotten", faulty.says]],
        columns=["", "tiny llama in bfloat16"], title="no room for a float32 copy",
    )  # fmt: skip
    found = [all(f.holds for f in healthy), faulty.holds, faulty.judged_in]

    wanted = [True, False, ("bfloat16",)]

    says = exhibit.measured("holds healthy, holds faulty, seen in", found, should_be=wanted)

    assert found == wanted, says
