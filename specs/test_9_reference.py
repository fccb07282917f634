"""Experiment 9: is this model the one that it was made of? Held to a reference, on fixed texts.

What is measured and how it is judged is in `llm_spec.quality.reference`.
"""

import math
import sys

import mlx.core as mx
import pytest

from fixtures.doubles.damaged import setting
from fixtures.doubles.tampered import TamperedModel
from fixtures.models.subjects import Subject
from fixtures.provision.catalogue import Entry
from fixtures.synthetic.small_directory import write_small_model
from fixtures.texts.passages import fingerprint, passages
from llm_spec.model.storage import storage_of
from llm_spec.numerics import tolerances
from llm_spec.observe.trace import TraceError, layer_names
from llm_spec.quality import likelihood
from llm_spec.quality.reference import (
    array_divergence,
    compare,
    layer_divergence,
    wiring_distance,
    worst,
)

COMPARED = {}  # comparisons by (subject, reference): one takes seconds, and two specs look at it
PIECE = 600  # characters of each passage: a comparison takes several passes over each of them
TOKENS = 100  # of the first passage, where layers and wiring are looked at: any context holds these


def compared(directory, reference):
    names = directory.name, reference.name
    if names not in COMPARED:
        stored = storage_of(directory.packed)
        ours, theirs = encoded(directory), encoded(reference)
        try:
            COMPARED[names] = compare(directory.unpacked, reference.unpacked, stored, ours, theirs)
        except ValueError as error:
            says = f"{error}, of {directory.name} or {reference.name}, but should be finite numbers"
            raise pytest.fail.Exception(says, pytrace=False) from None
    return COMPARED[names]


def texts():
    return {name: text[:PIECE] for name, text in passages().items()}


def encoded(subject):
    try:
        return {name: likelihood.encode(subject.tokenizer, text) for name, text in texts().items()}
    except ValueError as error:
        pytest.skip(f"{subject.name} cannot be scored on the passages: {error}")


def judge(exhibit, what, figures):
    """End with the verdict on the figures, by name; tell of the one that is furthest out."""
    name = max(figures, key=lambda name: beyond(figures[name]))
    figure = figures[name]
    says = exhibit.measured(
        f"{what}, {name}", figure.value,
        should_be=f"at most {figure.expected:.3g}, and is refuted over {figure.bound:.3g}",
    )  # fmt: skip
    if worst(figures.values()) == "inconclusive":
        exhibit.inconclusive(
            f"{what}, {name} = {figure.value:.3g}, which lies between what storage explains "
            f"({figure.expected:.3g}) and what it cannot ({figure.bound:.3g})"
        )
    return says


def beyond(figure):
    """How far out a figure is, to compare figures of different size."""
    order = ("verified", "inconclusive", "refuted").index(figure.verdict)
    return order, figure.value / max(figure.bound, sys.float_info.min)


def rows_of(figures):
    return [
        [name, f.value, f.floor, f.noise, f.expected, f.bound, f.verdict]
        for name, f in figures.items()
    ]


COLUMNS = [
    "figure", "subject", "floor", "noise", "verified up to", "refuted over", "verdict",
]  # fmt: skip


# ── Small models, for the faults ────────────────────────────────────────────────────────────────


def small(tmp_path, name="small"):
    """A whole model of 0.5 MB, with a tokenizer."""
    path = write_small_model(tmp_path / name)
    return Subject(Entry(name, "a small model", "none", directory=str(path))).replacing(path=path)


def with_arrays(subject, change):
    """`subject`, whose arrays are `change(path, array)`, or as they were where that is None."""
    other = subject.unloaded().replacing(path=subject.path)
    for path, module in other.model.named_modules():
        changed = change(path, module.weight) if "weight" in module else None
        if changed is not None:
            module.weight = changed
    return other


def held_to_itself(monkeypatch, tmp_path, change):
    """A small model with a fault, that model without it as the reference, and shorter texts."""
    monkeypatch.setattr(sys.modules[__name__], "PIECE", 60)
    monkeypatch.setattr(sys.modules[__name__], "COMPARED", {})
    reference = small(tmp_path)
    return {"directory": change(reference), "reference": reference}


# ── Predictions ─────────────────────────────────────────────────────────────────────────────────


def sharpen(monkeypatch, tmp_path):
    """The likeliest token stays the same everywhere, and only its odds change."""

    def change(subject):
        sharper = TamperedModel(subject.model, lambda logits: 1.1 * logits)
        return subject.replacing(unpacked=sharper)

    return held_to_itself(monkeypatch, tmp_path, change)


@pytest.mark.claim(id="9.60", falsifier=sharpen)
def test_predictions_diverge_from_the_reference_no_more_than_storage_explains(
    directory, reference, exhibit
):
    """KL(reference ‖ subject), mean and 99th percentile over all positions. The floor is what the
    reference shows when it is stored as coarsely as the subject is."""
    both = compared(directory, reference)
    if both.unpaired:
        pytest.skip(f"ids cannot be compared, only bits per byte: {both.unpaired}")
    ours, floor = both.subject.distance, both.rounded.distance
    exhibit.table(
        [*rows_of({f"{name} KL (nats a token)": f for name, f in both.kl.items()}),
         ["same likeliest token (share)", ours.top1_agreement, floor.top1_agreement,
          both.repeated.top1_agreement, None, None, None]],
        columns=COLUMNS,
        title=f"{directory.name} held to {reference.name}, at {ours.positions} positions of "
        f"passages {fingerprint(texts())}",
    )  # fmt: skip

    says = judge(exhibit, "KL in nats a token", both.kl)

    assert worst(both.kl.values()) == "verified", says


def shift_the_vocabulary(monkeypatch, tmp_path):
    """The tokenizers differ, too, so that only bits per byte are left to notice."""

    def change(subject):
        shifted = TamperedModel(subject.model, lambda logits: mx.roll(logits, 1, axis=-1) * 9)
        return subject.replacing(unpacked=shifted)

    return held_to_itself(monkeypatch, tmp_path, change)


@pytest.mark.claim(id="9.61", falsifier=shift_the_vocabulary)
def test_text_costs_no_more_bits_than_the_reference_needs_when_stored_as_coarsely(
    directory, reference, exhibit
):
    """Bits per byte compare fairly whatever the tokenizers are."""
    both = compared(directory, reference)
    exhibit.table(
        [[name, *costs] for name, *costs in zip(
            texts(), both.subject.bits_per_byte, both.reference.bits_per_byte,
            both.rounded.bits_per_byte,
        )],
        columns=["passage", "subject", "reference", "reference, stored as coarsely"],
        title="bits per byte",
    )  # fmt: skip
    excess = {"mean over passages": both.cost}
    exhibit.table(rows_of(excess), columns=COLUMNS, title="bits per byte beyond the reference")

    says = judge(exhibit, "bits per byte beyond the reference", excess)

    assert both.cost.verdict == "verified", says


# ── Hidden states ───────────────────────────────────────────────────────────────────────────────


def turn_one_matrix(monkeypatch, tmp_path):
    def turned(path, weight):
        return weight[::-1] if path == "model.layers.1.mlp.down_proj" else None

    return held_to_itself(
        monkeypatch, tmp_path,
        lambda subject: with_arrays(subject, turned),
    )  # fmt: skip


@pytest.mark.claim(id="9.62", falsifier=turn_one_matrix)
def test_hidden_states_part_from_the_reference_at_no_layer(directory, reference, exhibit):
    """Distance of each layer's output, relative to the token's norm. Where the curve of the subject
    first leaves that of the reference, stored as coarsely, is where to look for the fault."""
    token_ids, theirs = (
        encoded(each)["prose"].token_ids[:TOKENS] for each in (directory, reference)
    )
    if token_ids != theirs:
        pytest.skip("hidden states cannot be paired: the tokenizers cut the text differently")
    try:
        figures = layer_divergence(
            directory.unpacked, reference.unpacked, storage_of(directory.packed), token_ids
        )
    except (ValueError, TraceError) as error:
        pytest.skip(f"hidden states cannot be paired: {error}")
    layers = dict(zip(["embeddings", *(f"layer {i}" for i in range(len(figures)))], figures))
    first = next((name for name, f in layers.items() if f.verdict == "refuted"), None)
    exhibit.curve(
        list(range(len(figures))),
        {
            "subject": [f.value**0.5 for f in figures],
            "reference, stored as coarsely": [f.floor**0.5 for f in figures],
            "refuted over": [f.bound**0.5 for f in figures],
        },
        title=f"{directory.name} parts from {reference.name} at: {first or 'no layer'}",
        x_axis="layers passed", y_axis="distance / norm of the token (root mean square)",
    )  # fmt: skip
    told = {first: layers[first]} if first else layers

    says = judge(exhibit, "square of distance over norm", told)

    assert worst(figures) == "verified", says


# ── Arrays and wiring ───────────────────────────────────────────────────────────────────────────


@pytest.mark.claim(id="9.63", falsifier=turn_one_matrix)
def test_each_array_is_that_of_the_reference_rounded(directory, reference, exhibit):
    """The arrays that lie furthest off, for their storage. Methods that scale channels against each
    other, as AWQ does, make other arrays of the same function."""
    try:
        figures = array_divergence(
            directory.unpacked, reference.unpacked, storage_of(directory.packed)
        )
    except ValueError as error:
        pytest.skip(f"arrays cannot be paired: {error}")
    far = sorted(figures, key=lambda path: beyond(figures[path]), reverse=True)
    exhibit.table(
        rows_of({path: figures[path] for path in far[:10]}), columns=COLUMNS,
        title=f"ten of {len(far)} arrays: mean square of what they are off by, over their own",
    )  # fmt: skip

    says = judge(exhibit, "mean square off, over the array's own", figures)

    assert worst(figures.values()) == "verified", says


def turn_positions_faster(monkeypatch, tmp_path):
    subject = small(tmp_path, "faster")
    setting(rope_theta=500.0)(subject.path)
    return {"directory": subject, "reference": small(tmp_path)}


@pytest.mark.claim(id="9.64", falsifier=turn_positions_faster)
def test_the_config_wires_the_arrays_as_the_reference_does(directory, reference, exhibit):
    """The reference is given the subject's own arrays: rounding then sets nothing apart, and any
    distance comes of config.json, such as another rope_theta."""
    token_ids = encoded(reference)["prose"].token_ids[:TOKENS]
    try:
        apart = wiring_distance(directory.unpacked, reference.unpacked, token_ids)
    except ValueError as error:
        pytest.skip(f"arrays cannot be paired: {error}")
    keys = directory.config.keys() | reference.config.keys()
    rows = [[key, directory.config.get(key), reference.config.get(key)] for key in sorted(keys)]
    exhibit.table(
        [row for row in rows if row[1] != row[2]],
        columns=["config.json", directory.name, reference.name],
        title="what the configs say differently",
    )
    if math.isnan(apart):
        exhibit.inconclusive("with these arrays, the logits of both are no numbers")
    allowed = tolerances.reordered(mx.float32, len(layer_names(directory.unpacked)))

    says = exhibit.measured("distance of logits", apart, should_be=f"at most {allowed:.2g}")

    assert apart <= allowed, says
