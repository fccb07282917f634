"""Experiment 11: another implementation of the same models, which shares no code with mlx-lm.

transformers writes a tiny seeded model of each type, mlx-lm loads it, and both compute logits for
prompts on both sides of every window and boundary. `pytest specs/ --architectures --oracle
transformers` holds every type that both have; without it two types are held. Needs the extra
`parity` (PyTorch on the CPU); without it these claims are not run.
"""

import math
import os
import re

import pytest

from fixtures.models.known_faults import faults_of
from fixtures.oracle import known, table
from fixtures.oracle.mends import activations, faults
from fixtures.oracle.paired import Paired, need_torch
from fixtures.oracle.verdict import compared, hold, largest, show, show_parting
from llm_spec.numerics.distances import worst
from llm_spec.numerics.units import show_bytes
from llm_spec.oracle import processes
from llm_spec.oracle.pair import BOUND, Pair

STEPPED = ("cached", "chunked")
MEMORY = 700e6  # bytes: what a comparison may hold at its peak, imports and all


def turn_by_half_the_base(paired):
    return {"paired": paired.under(faults.half_the_rotary_base)}


@pytest.mark.claim(id="11.1", falsifier=turn_by_half_the_base)
def test_mlx_lm_computes_the_logits_of_transformers(paired, exhibit):
    """Whole prompts of 7, 24, 64 and 100 tokens: windows are 8, an original context is 32."""
    outcome = compared(paired.model_type, paired.outcome, exhibit)
    hold(outcome, ["whole"], known.disagreement_of(paired.model_type), exhibit, paired.of)


def turn_keys_too_far(paired):
    return {"paired": paired.under(faults.cached_keys_grow)}


@pytest.mark.claim(id="11.2", falsifier=turn_keys_too_far)
def test_fed_through_a_cache_mlx_lm_computes_the_logits_of_transformers(paired, exhibit):
    """Token by token and in chunks of 10, which divide no window and no prompt."""
    outcome = compared(paired.model_type, paired.outcome, exhibit)
    hold(outcome, STEPPED, known.disagreement_of(paired.model_type), exhibit, paired.of)


def hold_much_memory(paired):
    return {"paired": paired.under(faults.much_memory_is_held)}


@pytest.mark.claim(id="11.13", falsifier=hold_much_memory)
def test_a_comparison_fits_beside_others_in_memory(paired, exhibit):
    """The peak of the process that compares, with both libraries imported and both models made."""
    outcome = paired.outcome
    exhibit.table(
        [[paired.model_type, outcome.ended, show_bytes(outcome.peak_memory)]],
        columns=["model type", "ended", "peak of its memory"], title="what a comparison takes",
    )  # fmt: skip
    found = outcome.peak_memory
    says = exhibit.measured("peak of a comparison's memory, bytes", found, should_be=MEMORY)

    assert 0 < found <= MEMORY, f"{says} [{paired.model_type}: {outcome.ended}]"


def take_padding_for_tokens(paired):
    return {"paired": paired.under(faults.padding_is_taken_for_tokens)}


@pytest.mark.claim(id="11.11", falsifier=take_padding_for_tokens)
def test_in_a_batch_mlx_lm_computes_the_logits_of_transformers(paired, exhibit):
    """Prompts of 7, 24, 64 and 100 tokens in one batch, by mlx-lm's batch generator: the last five
    tokens of each are written one by one. How far a row may be off where its padding is known to
    spoil it, `known_faults.toml` says of the law `batch_rows_are_alone`. A model that is another
    one without a cache breaks that law, too, and may be right in a batch."""
    outcome = paired.batched
    excused = faults_of(paired.module, "batch_rows_are_alone")
    if outcome.ended == "not computed" and any(
        part.partition(" (")[0] in outcome.says  # the law's sentence says where it was raised, too
        for fault in excused
        for part in fault.laws["batch_rows_are_alone"].raised
    ):
        pytest.xfail(f"{excused[0]}")
    compared(paired.model_type, outcome, exhibit)
    if "batched" not in outcome.distances:
        pytest.skip("its caches cannot be merged into a batch")
    found = largest(outcome, ["batched"])
    of_batches = [fault for fault in excused if "cached_is_uncached" not in fault.laws]
    if not excused or (found <= BOUND and not of_batches):
        hold(outcome, ["batched"], known.disagreement_of(paired.model_type), exhibit, paired.of)
        return
    show_parting(outcome, ["batched"], f"{excused[0]}", exhibit, paired.of)
    says = exhibit.measured("distance from transformers' logits", found, should_be=BOUND)
    assert found > BOUND, f"{says} [mended: {excused[0]}]"
    pytest.xfail(f"{excused[0]}")


def mend_nothing(monkeypatch):
    monkeypatch.setattr(activations, "gelu_of_tanh", faults.nothing)


@pytest.mark.claim(id="11.3", falsifier=mend_nothing)
def test_a_known_disagreement_is_the_one_that_its_mend_ends(mended, exhibit):
    """Apart as released, together once mlx-lm is changed in the one place that the mend names."""
    need_torch()
    before, after = {}, {}
    for entry in [each for each in known.disagreements_of(mended) if each.mend]:
        pair, ways = entry.pair(mended), ["whole"] if entry.only_whole else ["whole", *STEPPED]
        apart, together = (
            processes.compare_apart(pair, mend)
            for mend in (entry.before(mended), entry.repair(mended))
        )
        for outcome in (apart, together):
            show(outcome, exhibit)
        assert apart.ended == "compared", f"as released it ended with {apart.says}"
        name = f"{entry.mend} {entry.variant}".strip()
        before[name] = largest(apart, ["whole"])
        after[name] = largest(together, ways) if together.distances else math.inf
        assert before[name] <= entry.at_most, (
            f"difference = {before[name]:.2g}, but should be at most {entry.at_most:.2g}: {entry}"
        )
    exhibit.table(
        [[mend, before[mend], after[mend]] for mend in before],
        columns=["mend", "distance as released", "mended"], title="before and after",
    )  # fmt: skip
    says = exhibit.measured("largest distance when mended", worst(after.values()), should_be=BOUND)

    assert min(before.values()) > BOUND, f"nothing to mend: {before}"
    assert worst(after.values()) <= BOUND, says


def in_this_process(monkeypatch):
    def died(function, *arguments):
        return processes.Outcome("compared", "the process survived", None, {"whole": {7: 0.0}})

    monkeypatch.setattr(processes, "run_apart", died)


def crash():
    """What native code does to a process."""
    os.abort()


@pytest.mark.claim(id="11.4", falsifier=in_this_process)
def test_a_crash_is_the_verdict_of_the_type_that_crashed(exhibit):
    """One process per comparison: the first aborts, the second is compared."""
    need_torch()
    pair = Paired("llama").pair
    ends = [processes.compare_apart(pair, mend).ended for mend in (crash, faults.nothing)]
    says = exhibit.measured("how they ended", ends, should_be=["crashed", "compared"])

    assert ends == ["crashed", "compared"], says


def know_every_type(monkeypatch):
    built = processes.compare_apart
    monkeypatch.setattr(
        processes, "compare_apart", lambda pair: built(Pair("llama", Paired("llama").pair.settings))
    )  # fmt: skip


@pytest.mark.claim(id="11.5", falsifier=know_every_type)
def test_what_one_side_cannot_do_is_told_with_its_error(exhibit):
    """A configuration that transformers refuses, one that mlx-lm refuses, a type of neither."""
    need_torch()
    settings = Paired("llama").pair.settings
    refused = {
        "transformers": Pair("llama", {**settings, "num_key_value_heads": 3}),
        "mlx-lm": Pair("mixtral", {**settings, "head_dim": 24}),
        "both": Pair("no-such-type", settings),
    }
    found = {who: processes.compare_apart(pair) for who, pair in refused.items()}
    exhibit.table(
        [[who, each.ended, each.says] for who, each in found.items()],
        columns=["refused by", "ended", "error"], title="what each side says",
    )  # fmt: skip
    ends = [each.ended for each in found.values()]
    says = exhibit.measured(
        "how they ended", ends, should_be=["not built", "not loaded", "not built"]
    )

    assert ends == ["not built", "not loaded", "not built"], says
    assert all(each.says for each in found.values()), (
        "a refused config is reported without the library's error"
    )


def write_the_older_keys(monkeypatch):
    monkeypatch.setattr(Paired, "as_written_today", property(lambda paired: paired.outcome))


@pytest.mark.claim(id="11.6", falsifier=write_the_older_keys)
def test_what_transformers_writes_is_loaded_as_the_table_says(paired, exhibit):
    """docs/transformers.md: it agrees, it loads and computes other logits, or it does not load."""
    need_torch()
    outcome = paired.as_written_today
    show(outcome, exhibit)
    found, told = table.verdict(outcome), table.written_today().get(paired.model_type)
    says = exhibit.measured("what transformers writes today", found, should_be=told)

    assert told, f"docs/transformers.md has no row of {paired.model_type}"
    assert found == told, says


def leave_out_the_last_norm(paired):
    return {"paired": paired.under(faults.the_last_norm_is_left_out)}


@pytest.mark.claim(id="11.7", falsifier=leave_out_the_last_norm)
def test_every_weight_moves_a_logit(paired, exhibit):
    """Each value of one weight moves by 5 %, up or down: a fault in that weight would be seen."""
    need_torch()
    told = table.blind_spots().get(paired.model_type)
    if told is None:
        pytest.skip(f"docs/transformers.md has no blind spots of {paired.model_type} measured")
    outcome = paired.moved
    if outcome.ended != "compared" and (why := known.why_not_compared(paired.model_type, outcome)):
        pytest.skip(why)
    assert outcome.ended == "compared", f"{outcome.ended}: {outcome.says}"
    blind = sorted({re.sub(r"\.\d+\.", ".N.", name) for name in outcome.unmoved})
    exhibit.table([[name] for name in blind] or [["none"]], ["blind spot"], title="blind spots")
    says = exhibit.measured("weights that move no logit", blind, should_be=told)

    assert blind == told, says
