"""Experiment 9: is this model the one that it was made of? Its tokenizer, its files, and what the
claims about a reference say of small conversions, healthy and broken.
"""

from collections import Counter

import mlx.core as mx
import pytest

from fixtures.doubles import conversions, damaged
from fixtures.doubles.damaged import NORM, setting
from fixtures.models.comparisons import verdicts_on
from llm_spec.directory import inspect_directory
from llm_spec.quality import arrays, conversion, tokenizers
from llm_spec.quality.comparison import Comparison

# ── Tokenizers ──────────────────────────────────────────────────────────────────────────────────


def exchange_two_ids(tmp_path):
    return conversions.held_to_itself(tmp_path, conversions.exchange_tokens)


@pytest.mark.claim(id="9.66", falsifier=exchange_two_ids)
def test_each_token_has_the_references_id(directory, reference, scored_texts, exhibit):
    """Ids of the passages, the vocabulary and the merges. Each difference is named."""
    ours, theirs = directory.tokenizer, reference.tokenizer
    found = tokenizers.differences_of_ids(ours, theirs, scored_texts)
    show_differences(exhibit, found, directory, reference)

    says = exhibit.measured("differences of the tokenizers", told(found), should_be="none")

    assert len(theirs.get_vocab()) > 1, "the reference has no vocabulary to hold a tokenizer to"
    assert not found, says


def end_with_another_token(tmp_path):
    return conversions.held_to_itself(
        tmp_path, setting("tokenizer_config.json", eos_token="<|im_start|>")
    )


@pytest.mark.claim(id="9.67", falsifier=end_with_another_token)
def test_special_tokens_and_chat_template_are_the_references(directory, reference, exhibit):
    """The tokens that begin, end and pad a text, all special ones, and the chat template."""
    found = tokenizers.differences_of_markers(directory.tokenizer, reference.tokenizer)
    show_differences(exhibit, found, directory, reference)

    says = exhibit.measured("differences of special tokens", told(found), should_be="none")

    assert not found, says


def show_differences(exhibit, found, directory, reference):
    exhibit.table(
        [[each.part, each.ours, each.theirs] for each in found],
        columns=["what differs", directory.name, reference.name], title="tokenizers",
    )  # fmt: skip


def told(found):
    return "; ".join(map(str, found)) or "none"


# ── Files ───────────────────────────────────────────────────────────────────────────────────────


def interleave_rows_of_q_and_k(tmp_path):
    damage = conversions.changed(conversions.interleave_rows)
    return conversions.held_to_itself(tmp_path, damage, conversions.packed)


@pytest.mark.claim(id="9.68", falsifier=interleave_rows_of_q_and_k)
def test_each_tensor_of_the_source_is_in_the_files_at_its_place(directory, reference, exhibit):
    """The fate of each tensor. Changed values are shown here and judged by claim 9.63."""
    ours = conversion.read(directory.path, directory.config)
    source = conversion.read(reference.path, reference.config, named_as=directory.config)
    found = conversion.fates(ours, source)
    kinds = Counter(fate.kind for fate in found)
    exhibit.table(
        [[fate.name, fate.says, fate.off] for fate in found[:20]],
        columns=["tensor", "fate", "root mean square of the error / of the tensor"],
        title=f"{len(found)} tensors: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()),
    )  # fmt: skip
    moved = [f"{fate.name}: {fate.says}" for fate in found if fate.is_moved]
    more = f" (and {len(moved) - 3} more)" if len(moved) > 3 else ""

    says = exhibit.measured(
        "tensors missing, added, exchanged, transposed, permuted or negated",
        ("; ".join(moved[:3]) or "none") + more, should_be="none",
    )  # fmt: skip

    assert found, "tensors in the files of both = 0, but should be some"
    assert not moved, says


ROUNDED = {"the same", "rounded"}
NOBODYS = setting(model_type="nobodys", auto_map={"AutoModelForCausalLM": "nobodys.Model"})
# A conversion, and what is said of its first tensors, held to a source that cannot be loaded.
HELD_TO_FILES = {
    "as it is": (lambda directory: None, {"the same"}),
    "rounded to bfloat16": (conversions.cast(mx.bfloat16), {"rounded"}),
    "packed": (conversions.packed, {"rounded"}),
    "rows of q and k interleaved": (conversions.changed(conversions.interleave_rows), {"permuted"}),
    "one square matrix transposed": (
        conversions.changed(conversions.transpose_one),
        {"transposed"},
    ),
    "gate_proj and up_proj exchanged": (
        conversions.changed(conversions.exchange_gate),
        {"another tensor's"},
    ),
    "one matrix negated": (conversions.changed(conversions.negate_one), {"negated"}),
    "a tensor missing": (conversions.changed(lambda held: held.pop(NORM)), {"missing"}),
}


def see_no_row_elsewhere(monkeypatch):
    monkeypatch.setattr(conversion, "_moved", lambda array, source: None)


@pytest.mark.claim(id="9.161", falsifier=see_no_row_elsewhere)
def test_a_source_that_mlx_lm_cannot_load_is_compared_by_its_files(tmp_path, exhibit):
    """Of a type that nobody has, which wants code of its own to be run: none of it is needed."""
    source = conversions.small(tmp_path / "source", NOBODYS, damaged.code)
    view = damaged.view_of(source.path)
    found = inspect_directory(source.path, view, tokenizer=False, needs_model=False)
    files = {}
    for number, (case, (damage, _)) in enumerate(HELD_TO_FILES.items()):
        subject = conversions.small(tmp_path / str(number), damage)
        files[case] = conversion.fates(
            conversion.read(subject.path, subject.config),
            conversion.read(found.path, source.config, named_as=subject.config),
        )
    exhibit.table(
        [[case, fates[0].name, fates[0].says] for case, fates in files.items()],
        columns=["conversion", "tensor", "what became of it"], title="held to files",
    )  # fmt: skip
    wrong = {
        case: kinds for case, (_, should_be) in HELD_TO_FILES.items()
        if not should_be <= (kinds := {fate.kind for fate in files[case]}) <= should_be | ROUNDED
    }  # fmt: skip

    says = exhibit.measured("conversions of which something else is told", wrong, should_be={})

    assert "nobodys" in found.problems["model"], f"{found.problems}, but should name the type"
    assert not wrong, says


# ── The claims themselves, on small conversions ─────────────────────────────────────────────────


def allow_nothing_for_another_order(monkeypatch):
    monkeypatch.setattr(arrays, "REORDERED", 0.0)
    monkeypatch.setattr(Comparison, "_reordered", staticmethod(lambda layers: 0.0))


@pytest.mark.claim(id="9.69", falsifier=allow_nothing_for_another_order)
def test_a_healthy_conversion_is_refuted_by_no_claim(tmp_path, exhibit):
    """The verdict of each claim on a small model, converted without changing its function."""
    reference = conversions.small(tmp_path / "reference")
    seen, texts = {}, conversions.brief_texts()
    for name, damage in conversions.HEALTHY.items():
        subject = conversions.small(tmp_path / name.replace(" ", "-"), damage)
        seen[name] = verdicts_on(subject.replacing(tokenizer=reference.tokenizer), reference, texts)
    exhibit.table(
        [[name, *verdicts.values()] for name, verdicts in seen.items()],
        columns=["conversion", *next(iter(seen.values()))], title="verdicts on healthy conversions",
    )  # fmt: skip
    refuted = {
        f"{name}: {claim}": verdict
        for name, verdicts in seen.items()
        for claim, verdict in verdicts.items()
        if verdict != "verified" and (claim, verdict) != ("9.65", "inconclusive")
    }

    says = exhibit.measured("claims that refute a healthy conversion", refuted, should_be={})

    assert refuted == {}, says


def see_no_adapter(monkeypatch):
    monkeypatch.setattr(arrays, "largest_singular_value", lambda matrix: 1.0)


@pytest.mark.claim(id="9.115", falsifier=see_no_adapter)
def test_each_broken_conversion_is_refuted_by_the_claim_about_it(tmp_path, exhibit):
    """What broke each small model, and the verdict of every claim. A lost adapter is held to the
    adapted model; all others to the model that they were made of."""
    reference = conversions.small(tmp_path / "reference")
    adapted = conversions.small(tmp_path / "adapted", conversions.changed(conversions.adapt))
    cases = {"an adapter lost, at 4 bits": (conversions.packed, "9.65"), **conversions.BROKEN}
    seen, texts = {}, conversions.brief_texts()
    for name, (damage, _) in cases.items():
        source = adapted if "adapter" in name else reference
        seen[name] = verdicts_on(
            conversions.small(tmp_path / name.replace(" ", "-"), damage), source, texts
        )
    exhibit.table(
        [[name, cases[name][1], *verdicts.values()] for name, verdicts in seen.items()],
        columns=["what is wrong", "claim about it", *next(iter(seen.values()))],
        title="verdicts on broken conversions",
    )  # fmt: skip
    passed = {
        f"{name}: {claim}": seen[name][claim]
        for name, (_, claim) in cases.items()
        if seen[name][claim] != "refuted"
    }

    says = exhibit.measured("broken conversions that pass", passed, should_be={})

    assert passed == {}, says
