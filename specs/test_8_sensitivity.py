"""Experiment 8: which layer of a quantised model loses what, and which parts deserve more bits.

One part of the model at a time is put into its reference, on a fixed passage; `--reference` names
the reference of a model under test. How it is measured is in `llm_spec.quality.sensitivity`.
"""

import copy
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from rich.console import Console
from rich.progress import Progress

from fixtures.doubles import conversions
from fixtures.models.comparisons import compared
from fixtures.texts.passages import passages
from llm_spec.model.storage import storage_of, stored_like
from llm_spec.quality import likelihood, sensitivity
from llm_spec.quality.comparison import Comparison
from llm_spec.quality.passes import NotNumbers
from llm_spec.quality.reference import worst

SECONDS = 60  # for single tensors, after all layers
MORE = 0.05  # of the model's bytes, to be spent on more bits
BITS, GROUP = 4, 64
QUICK_BYTES = 260  # of one passage: 54 tokens
FACTOR = 1.25  # how far the sum of the layers' KL may be from that of all of them
TIMES = 1.5  # as much must be saved as at the other end of the list
TOLD = 12  # parts


def turn_one_matrix(tmp_path):
    return conversions.held_to_itself(tmp_path, conversions.changed(conversions.reverse_rows))


@pytest.mark.claim(id="8.41", falsifier=turn_one_matrix)
def test_no_part_of_the_model_costs_more_than_its_storage_explains(
    directory, reference, scored_texts, exhibit, capsys
):
    """The reference, with one layer or tensor of the model: what the KL to the reference becomes.
    The list says what to convert again, or where more bits save most."""
    both = compared(directory, reference, scored_texts)
    try:
        found = measured_parts(both, capsys)
    except NotNumbers as error:
        pytest.skip(f"one of the two computes no numbers: {error}")
    except ValueError as error:
        pytest.skip(f"layers cannot be measured one by one: {error}")
    if not found:
        exhibit.measured("tensors that differ from the reference's", 0, should_be="any number")
        return
    show_ranking(exhibit, directory, reference, found, both)
    refuted = [loss for loss in found if loss.kl.verdict == "refuted"]
    # A layer is refuted by one of its tensors: that is the one to tell of.
    told = next((loss for loss in sensitivity.ranked(refuted) if len(loss.paths) == 1), None)
    told = told or max(found, key=lambda loss: loss.kl.value / loss.kl.bound)

    says = exhibit.measured(
        f"KL in nats per token with {told.part} alone", told.kl.value,
        should_be=f"at most {told.kl.expected:.3g}; refuted over {told.kl.bound:.3g}",
        bound=told.kl.bound,
    )  # fmt: skip

    verdict = worst(loss.kl for loss in found)
    if verdict == "inconclusive":
        exhibit.inconclusive(f"{told.part} costs between 2 and 4 times what its storage explains")
    assert verdict == "verified", says


def measured_parts(both, capsys):
    """Every layer and, in the time given, tensors of those that lose most; with a progress bar."""
    found = []
    with capsys.disabled():
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("layers and tensors, one at a time", total=None)
            for loss, left in sensitivity.losses(both, SECONDS, texts=1):
                found.append(loss)
                bar.update(task, completed=len(found), total=len(found) + left)
    return found


def show_ranking(exhibit, directory, reference, found, both):
    """Bars of the layers, the parts that lose most, and where more bits would save most."""
    count = len(sensitivity.layers(both))  # they come first
    exhibit.bars(
        {short(loss.part): loss.kl.value for loss in found[:count]},
        title=f"{reference.name} with one layer of {directory.name}",
        axis="KL to the reference (nats per token)",
    )  # fmt: skip
    exhibit.table(
        [[short(loss.part), loss.kl.value, loss.kl.floor, loss.bits_per_byte, loss.kl.verdict]
         for loss in sensitivity.ranked(found)[:TOLD]],
        columns=["part", "KL (nats per token)", "explained", "more bits per byte", "verdict"],
        title=f"the {TOLD} parts that lose most, of {len(found)} measured",
    )  # fmt: skip
    tensors = [loss for loss in found if len(loss.paths) == 1]
    sizes = {path: array.size for path, array in both.tensors[1].items()}
    budget = MORE * directory_bytes(directory)
    given = sensitivity.give_bits(tensors, both.storage, sizes, budget)
    if given:
        exhibit.table(
            [[short(each.part), each.before, each.after, each.n_bytes / 1e6, each.saves]
             for each in given[:TOLD]],
            columns=["tensor", "bits now", "bits to give", "MB more", "KL saved"],
            title=f"where {MORE:.0%} more bytes save most (KL in nats per token)",
        )  # fmt: skip


def short(path):
    """`layers.3.mlp.down_proj` for `model.layers.3.mlp.down_proj.weight`."""
    return path.removeprefix("model.").removesuffix(".weight")


def directory_bytes(directory):
    return sum(array.nbytes for _, array in tree_flatten(directory.packed.parameters()))


# ── Whether the list is right ───────────────────────────────────────────────────────────────────

LISTS = {}  # one takes a minute, and two specs look at it


def list_of(subject):
    """The embedded model at 4 bits, held to itself, and what each of its layers loses."""
    key = subject.name, sensitivity.losses, sensitivity._loss
    if key not in LISTS:
        reference = subject.unpacked
        packed = copy.deepcopy(reference)
        nn.quantize(packed, GROUP, BITS)
        rounded = stored_like(dict(tree_flatten(reference.parameters())), {}, storage_of(packed))
        model = copy.deepcopy(reference)
        model.update(tree_unflatten(list(rounded.items())))
        mx.eval(model.parameters())
        text = passages("prose")["prose"][:QUICK_BYTES]
        texts = {"prose": likelihood.encode(subject.tokenizer, text)}
        both = Comparison(model, packed, reference, texts, texts)
        LISTS[key] = both, [loss for loss, _ in sensitivity.losses(both, seconds=0)]
    return LISTS[key]


def measure_each_layer_with_those_before(monkeypatch):
    alone, before = sensitivity._loss, []

    def together(both, name, paths, texts):
        before.extend(paths)
        return alone(both, name, tuple(before), texts)

    monkeypatch.setattr(sensitivity, "_loss", together)


@pytest.mark.slow
@pytest.mark.claim(id="8.42", falsifier=measure_each_layer_with_those_before)
def test_the_kl_of_single_layers_adds_up_to_that_of_all(embedded, exhibit):
    """Rounding errors of different layers are independent, so that their powers add up: only then
    does a list of layers, each measured alone, say what the whole loses."""
    both, found = list_of(embedded)
    exhibit.bars(
        {loss.part: loss.kl.value for loss in found},
        title=f"{embedded.name} in float32, with one layer at {BITS} bits",
        axis="KL (nats per token)",
    )  # fmt: skip
    ratio = sum(loss.kl.value for loss in found) / both.subject.apart.mean_kl

    says = exhibit.measured(
        "sum of the layers' KL over that of all layers together", ratio,
        should_be=f"{1 / FACTOR:.2g} to {FACTOR:.3g}",
    )  # fmt: skip

    assert len(found) > 30, f"parts = {len(found)}, but should be more than 30"
    assert 1 / FACTOR <= ratio <= FACTOR, says


def give_bits_to_those_that_lose_least(monkeypatch):
    give = sensitivity.give_bits

    def upside_down(found, storage, sizes, n_bytes):
        ends = sensitivity.ranked(found)
        turned = [sensitivity.Loss(a.part, a.paths, b.kl, b.bits_per_byte)
                  for a, b in zip(ends, reversed(ends))]  # fmt: skip
        return give(turned, storage, sizes, n_bytes)

    monkeypatch.setattr(sensitivity, "give_bits", upside_down)


@pytest.mark.slow
@pytest.mark.claim(id="8.43", falsifier=give_bits_to_those_that_lose_least)
def test_bits_save_more_where_the_list_says(embedded, exhibit):
    """Both plans are carried out and measured. The other plan spends no less: a fifth bit for the
    layers that lose least per byte."""
    both, found = list_of(embedded)
    sizes = {path: array.size for path, array in both.tensors[1].items()}
    budget = MORE * sum(sizes.values()) * (BITS + 32 / GROUP) / 8
    given = sensitivity.give_bits(found, both.storage, sizes, budget)
    paths = {loss.part: loss.paths for loss in found}
    plan = {path: each.after for each in given for path in paths[each.part]}
    other, spent = {}, 0.0
    for loss in sorted(found, key=lambda loss: loss.kl.value / sum(sizes[p] for p in loss.paths)):
        if spent < sum(each.n_bytes for each in given):
            other |= dict.fromkeys(loss.paths, BITS + 1)
            spent += sum(sizes[path] for path in loss.paths) / 8
    whole = both.subject.apart.mean_kl
    saved, elsewhere = (whole - with_bits(both, bits) for bits in (plan, other))
    exhibit.bars(
        {"where the list says": saved, "at its other end": elsewhere},
        title=f"what {sum(each.n_bytes for each in given) / 1e6:.2g} MB more save of "
        f"{whole:.2g} nats per token", axis="KL saved (nats per token)",
    )  # fmt: skip

    says = exhibit.measured(
        "KL saved where the list says, over that saved at its other end", saved / elsewhere,
        should_be=f"at least {TIMES}",
    )  # fmt: skip

    assert elsewhere > 0, f"saved at the other end = {elsewhere:.3g}, but should be above 0"
    assert saved >= TIMES * elsewhere, says


def with_bits(both, bits):
    """The KL of the reference at 4 bits, and at other bits in some tensors."""
    ways = {path: replace(way, bits=bits.get(path, BITS)) if hasattr(way, "bits") else way
            for path, way in both.storage.items()}  # fmt: skip
    held = stored_like(both.tensors[1], {}, ways)
    return both.predict_with(held).apart.mean_kl
