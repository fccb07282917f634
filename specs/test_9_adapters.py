"""Experiment 9: does an adapter (LoRA, DoRA) change its base, and does fusing keep the change?"""

import math
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear

from fixtures.doubles import broken_adapters
from fixtures.doubles.damaged import view_of
from fixtures.doubles.refusals import is_one_sentence
from fixtures.models import adapters
from fixtures.synthetic.formats import FORMATS, MXFP4
from llm_spec.directory import BadModel, trial_adapter
from llm_spec.directory import adapter as inspector
from llm_spec.numerics.distances import distance, worst
from llm_spec.quality import adapters as instrument


def let_b_be_zero(tmp_path):
    base = adapters.small(tmp_path)
    broken_adapters.zero_b(base.adapter)
    return {"adapted": base}


@pytest.mark.claim(id="9.140", falsifier=let_b_be_zero)
def test_the_adapter_changes_the_logits_of_its_base(adapted, exhibit):
    """With B all zeros or a scale of 0, the adapter has no effect and the base is served."""
    changed = distance(adapted.plus, adapted.base)
    settings = adapted.settings.get("lora_parameters") or {}
    exhibit.table(
        [[adapted.settings.get("fine_tune_type", "lora"), settings.get("rank"),
          settings.get("scale"), changed, adapted.rounding]],
        columns=["kind", "rank", "scale", "distance of logits", "rounding"], title="the adapter",
    )  # fmt: skip

    says = exhibit.measured(
        "distance of logits with and without the adapter", changed,
        should_be=f"finite and more than {adapted.rounding:.2g}, the effect of rounding",
    )  # fmt: skip

    assert adapted.rounding < changed < math.inf, says


def misspell_a_target(tmp_path):
    base = adapters.small(tmp_path)
    broken_adapters.misspell(base.adapter)
    return {"adapted": base}


@pytest.mark.claim(id="9.141", falsifier=misspell_a_target)
def test_each_target_module_of_the_adapter_is_adapted(adapted, exhibit):
    """mlx-lm skips a target that the base lacks, and leaves one without tensors unchanged."""
    missed = adapted.missed_targets()
    exhibit.table([[each] for each in missed], columns=["what is wrong"], title="target modules")

    told = "; ".join(missed[:3]) or "none"
    says = exhibit.measured("target modules that are not adapted", told, should_be="none")

    assert not missed, says


def forget_the_scale(monkeypatch, tmp_path):
    for kind in (LoRALinear, DoRALinear):
        monkeypatch.setattr(kind, "fuse", broken_adapters.scaled(kind.fuse, 0.5))
    return {"adapted": adapters.small(tmp_path)}


@pytest.mark.claim(id="9.142", falsifier=forget_the_scale)
def test_each_fused_matrix_is_base_plus_adapter_rounded_as_it_is_stored(adapted, exhibit):
    """Base plus adapter is the adapted module's output for unit vectors, in float32."""
    if adapted.replaces_weights:
        pytest.skip("the adapter replaces whole weights, so there is nothing to fuse")
    shares = adapted.beyond_storage()
    exhibit.table(
        [[path, 100 * share] for path, share in shares.items()],
        columns=["matrix", "% of numbers off by more than rounding"], title="fused matrices",
    )  # fmt: skip
    known = {path: share for path, share in shares.items() if not math.isnan(share)}
    if not known:
        exhibit.inconclusive("the steps of this storage are not known")
    first = max(known, key=known.__getitem__)

    says = exhibit.measured(
        f"share of numbers off by more than rounding, {first}", known[first], should_be=0
    )

    assert worst(known.values()) == 0, says


@pytest.mark.claim(id="9.143", falsifier=forget_the_scale)
def test_the_dequantised_fuse_computes_what_base_plus_adapter_does(adapted, exhibit):
    """Nothing is rounded to fewer bits, so only the order of sums differs."""
    if adapted.replaces_weights:
        pytest.skip("the adapter replaces whole weights, so there is nothing to fuse")
    missed = distance(adapted.unpacked_logits, adapted.plus)

    says = exhibit.measured(
        "distance of logits, dequantised fuse and base plus adapter", missed,
        should_be=f"at most {adapted.rounding:.2g}, the effect of rounding",
    )  # fmt: skip

    assert missed <= adapted.rounding, says


def take_the_adapter_away(monkeypatch, tmp_path):
    for kind in (LoRALinear, DoRALinear):
        monkeypatch.setattr(kind, "fuse", broken_adapters.scaled(kind.fuse, -1))
    return {"adapted": adapters.small(tmp_path)}


@pytest.mark.claim(id="9.144", falsifier=take_the_adapter_away)
def test_fused_the_model_is_nearer_to_base_plus_adapter_than_its_base_is(adapted, exhibit):
    """Fused into few bits, an adapter smaller than a step of the grid is rounded away. That is not
    fault of the adapter, and is told."""
    if adapted.replaces_weights:
        pytest.skip("the adapter replaces whole weights, so there is nothing to fuse")
    lost = distance(adapted.fused_logits, adapted.plus)
    whole = distance(adapted.base, adapted.plus)
    if whole <= adapted.rounding:
        pytest.skip("the adapter changes nothing (claim 9.140)")
    exhibit.table(
        [["base", whole], ["fused as stored", lost]],
        columns=["logits of", "distance to base plus adapter"], title="what fusing keeps",
    )  # fmt: skip

    says = exhibit.measured(
        "distance of the fused model over that of its base", lost / whole, should_be="less than 1"
    )
    if lost >= whole and adapted.is_packed and not worst(adapted.beyond_storage().values()):
        exhibit.inconclusive(
            f"rounding the fused weights moves logits {lost / whole:.2g} times as far as the "
            "adapter does: keep it apart, or fuse with --dequantize"
        )

    assert lost < whole, says


# ── Small adapters ──────────────────────────────────────────────────────────────────────────────


def verdicts_on(adapted):
    """Which of the claims hold, by number. A share of NaN is of storage whose steps are not known,
    which decides nothing."""
    apart = distance(adapted.plus, adapted.base)
    known = [share for share in adapted.beyond_storage().values() if not math.isnan(share)]
    return {
        "9.140": adapted.rounding < apart < math.inf,
        "9.141": not adapted.missed_targets(),
        "9.142": not any(known),
        "9.143": distance(adapted.unpacked_logits, adapted.plus) <= adapted.rounding,
    }


def add_everything_twice(monkeypatch):
    effective = instrument.effective_weight
    monkeypatch.setattr(instrument, "effective_weight", lambda module: 2 * effective(module))


@pytest.mark.claim(id="9.145", falsifier=add_everything_twice)
def test_a_healthy_adapter_is_refuted_by_no_claim(tmp_path, exhibit):
    """LoRA and DoRA, on a base in float32, in bfloat16, at 4 bits and in mxfp4."""
    seen = {
        f"{kind}, {number_format}": verdicts_on(
            adapters.small(tmp_path / kind / number_format, kind, number_format)
        )
        for kind in ("lora", "dora")
        for number_format in (*FORMATS, MXFP4)
    }
    exhibit.table(
        [[name, *verdicts.values()] for name, verdicts in seen.items()],
        columns=["base", *next(iter(seen.values()))], title="claims about healthy adapters",
    )  # fmt: skip
    refuted = {
        name: [claim for claim in verdicts if not verdicts[claim]]
        for name, verdicts in seen.items()
        if not all(verdicts.values())
    }

    says = exhibit.measured("claims that refute a healthy adapter", refuted, should_be={})

    assert refuted == {}, says


def compute_with_packed_matrices(monkeypatch):
    monkeypatch.setattr(instrument, "_to_compute_with", instrument._widened)
    monkeypatch.setattr(instrument, "unpacked", lambda module: module)


@pytest.mark.claim(id="9.177", falsifier=compute_with_packed_matrices)
def test_a_coarse_product_of_packed_matrices_allows_an_adapter_no_more(
    tmp_path, exhibit, monkeypatch
):
    """The rounding that claims about adapters allow, also where products with packed matrices keep
    8 bits, as a kernel in bfloat16 does: a bound measured on them would follow."""

    def unpacking(x, *packed, transpose=True, **how):
        weight = mx.dequantize(*packed, **how)
        return x @ (weight.T if transpose else weight)

    def coarse(*args, **options):
        return unpacking(*args, **options).astype(mx.bfloat16).astype(mx.float32)

    monkeypatch.setattr(mx, "quantized_matmul", unpacking)  # as exact on any device
    exact = adapters.small(tmp_path / "exact", number_format="4-bit").rounding
    monkeypatch.setattr(mx, "quantized_matmul", coarse)
    allowed = adapters.small(tmp_path / "coarse", number_format="4-bit").rounding

    says = exhibit.measured(
        "rounding allowed with coarse products, over that with exact ones", allowed / exact,
        should_be="at most 2", bound=2,
    )  # fmt: skip

    assert allowed <= 2 * exact, says


def see_every_target(monkeypatch):
    monkeypatch.setattr(instrument.Adapted, "missed_targets", lambda adapted: [])


@pytest.mark.claim(id="9.146", falsifier=see_every_target)
def test_each_broken_adapter_is_refuted_by_the_claim_about_it(tmp_path, exhibit):
    """The fault of each adapter on a 4-bit base, and the claim that must be refuted."""
    seen = {}
    for number, (case, (damage, claim)) in enumerate(broken_adapters.REFUTED.items()):
        broken = adapters.small(tmp_path / str(number), number_format="4-bit")
        damage(broken.adapter)
        seen[case] = [claim, verdicts_on(broken)[claim]]
    exhibit.table(
        [[case, *row] for case, row in seen.items()],
        columns=["what is wrong", "claim", "holds"], title="broken adapters",
    )  # fmt: skip
    passed = [case for case, (_, holds) in seen.items() if holds]

    says = exhibit.measured("broken adapters that pass", passed, should_be=[])

    assert passed == [], says


# ── Adapters that cannot be loaded ──────────────────────────────────────────────────────────────


def try_it_here(monkeypatch):
    """Put the adapter on its base in this process: nothing here is hostile."""

    class Here:
        def __init__(self, module, *paths):
            self.answer = {"problem": trial_adapter.problem_of(*map(Path, paths))}

        def receive(self, seconds):
            return self.answer

        def close(self):
            pass

    monkeypatch.setattr(inspector, "Child", Here)


def believe_the_numbers(monkeypatch):
    monkeypatch.setattr(inspector, "_check_number", lambda *_, **options: None)
    monkeypatch.setattr(inspector, "_check_weights", lambda root: None)


@pytest.mark.claim(id="0.100", falsifier=believe_the_numbers)
def test_an_adapter_that_cannot_be_put_on_its_base_is_refused_in_one_sentence(
    tmp_path, exhibit, monkeypatch
):
    """Truncated, missing or foreign files, wrong shapes, targets that do not exist."""
    try_it_here(monkeypatch)
    whole = adapters.small(tmp_path / "whole")
    base = tmp_path / "whole" / "base"
    said = {}
    for number, (case, (damage, _)) in enumerate(broken_adapters.REFUSED.items()):
        copy = adapters.write_adapter(tmp_path / str(number), base)
        damage(copy)
        try:
            inspector.inspect_adapter(copy, base, view_of(copy))
        except BadModel as problem:
            said[case] = str(problem)
    exhibit.table(list(map(list, said.items())), columns=["adapter", "said"], title="refusals")
    wrong = {
        case: said.get(case)
        for case, (_, words) in broken_adapters.REFUSED.items()
        if not is_one_sentence(said.get(case)) or words not in said[case]
        or not said[case].isprintable()
    }  # fmt: skip

    says = exhibit.measured("adapters accepted or without a clear message", wrong, should_be={})

    assert not wrong, says
    assert inspector.inspect_adapter(whole.adapter, base, view_of(whole.adapter))
