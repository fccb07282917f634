"""Experiment 9: is this model a faithful conversion of its reference? On fixed texts.

What is measured is in `llm_spec.quality.comparison`, how it is judged in `quality.reference`.
"""

import sys

import mlx.core as mx
import pytest

from fixtures.doubles import conversions
from fixtures.doubles.damaged import setting
from fixtures.models.comparisons import compared
from fixtures.texts.passages import fingerprint
from llm_spec.quality import arrays
from llm_spec.quality.passes import NotNumbers
from llm_spec.quality.reference import worst


def numbers(exhibit, compute):
    """What `compute` gives; a subject that has no numbers is refuted, a reference holds nothing."""
    try:
        return compute()
    except NotNumbers as error:
        if not error.of_subject:
            exhibit.inconclusive(f"nothing can be held to this reference: {error}")
        says = exhibit.measured("what the subject computes with", str(error), "finite numbers")
        raise AssertionError(says) from None


def judge(exhibit, what, figures, unit=""):
    """End with the verdict on the figures, by name; tell of the one that is furthest out, and of
    the smallest change that would have been refuted there."""
    name = max(figures, key=lambda name: beyond(figures[name]))
    figure = figures[name]
    says = exhibit.measured(
        f"{what}, {name}", figure.value,
        should_be=f"at most {figure.expected:.3g}; refuted over {figure.bound:.3g}; the "
        f"smallest detectable change is {figure.detectable:.2g}{unit}", bound=figure.bound,
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
        [name, f.value, f.floor, f.noise, f.expected, f.bound, f.detectable, f.verdict]
        for name, f in figures.items()
    ]


COLUMNS = [
    "figure", "subject", "floor", "noise", "verified up to", "refuted over",
    "smallest change to be seen", "verdict",
]  # fmt: skip


# ── Predictions ─────────────────────────────────────────────────────────────────────────────────


def sharpen(tmp_path):
    """The likeliest token stays the same everywhere, and only its odds change."""
    return conversions.with_logits(tmp_path, lambda logits: 1.1 * logits)


@pytest.mark.claim(id="9.60", falsifier=sharpen)
def test_predictions_diverge_from_the_reference_no_more_than_storage_explains(
    directory, reference, scored_texts, exhibit
):
    """KL(reference ‖ model), mean and 99th percentile over all positions. The floor is what the
    reference shows when it is stored as coarsely as the subject is."""
    both = compared(directory, reference, scored_texts)
    if unpaired := numbers(exhibit, lambda: both.unpaired):
        pytest.skip(f"ids cannot be compared, only bits per byte: {unpaired}")
    kl = numbers(exhibit, lambda: both.kl)
    ours, floor = both.subject.apart, both.stored.predictions.apart
    exhibit.table(
        [*rows_of({f"{name} KL (nats per token)": f for name, f in kl.items()}),
         ["same likeliest token (share)", ours.top1_agreement, floor.top1_agreement,
          both.reference.apart.top1_agreement, None, None, None, None]],
        columns=COLUMNS,
        title=f"{directory.name} held to {reference.name}, at {ours.positions} positions of "
        f"passages {fingerprint(scored_texts)}",
    )  # fmt: skip

    says = judge(exhibit, "KL in nats per token", kl, " nats per token")

    assert worst(kl.values()) == "verified", says


def shift_the_vocabulary(tmp_path):
    """Each token's score goes to the next, so that text costs more whatever the tokenizer is."""
    return conversions.with_logits(tmp_path, lambda logits: mx.roll(logits, 1, axis=-1) * 9)


@pytest.mark.claim(id="9.61", falsifier=shift_the_vocabulary)
def test_text_costs_no_more_bits_than_the_reference_needs_when_stored_as_coarsely(
    directory, reference, scored_texts, exhibit
):
    """Bits per byte compare models fairly, whatever their tokenizers are."""
    both = compared(directory, reference, scored_texts)
    cost = numbers(exhibit, lambda: both.cost)
    exhibit.table(
        [[name, *costs] for name, *costs in zip(
            scored_texts, both.subject.bits_per_byte, both.reference.bits_per_byte,
            both.stored.predictions.bits_per_byte,
        )],
        columns=["passage", "subject", "reference", "reference, stored as coarsely"],
        title="bits per byte",
    )  # fmt: skip
    excess = {"mean over passages": cost}
    exhibit.table(rows_of(excess), columns=COLUMNS, title="bits per byte beyond the reference")

    says = judge(exhibit, "bits per byte beyond the reference", excess, " bits per byte")

    assert cost.verdict == "verified", says


# ── Hidden states ───────────────────────────────────────────────────────────────────────────────


def turn_one_matrix(tmp_path):
    return conversions.held_to_itself(tmp_path, conversions.changed(conversions.reverse_rows))


@pytest.mark.claim(id="9.62", falsifier=turn_one_matrix)
def test_hidden_states_part_from_the_reference_at_no_layer(
    directory, reference, scored_texts, exhibit
):
    """Distance of each layer's output, relative to the token's norm. Where the curve of the subject
    first leaves that of the reference, stored as coarsely, is where to look for the fault."""
    try:
        figures = numbers(exhibit, lambda: compared(directory, reference, scored_texts).layers)
    except ValueError as error:
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
def test_each_array_is_that_of_the_reference_rounded(directory, reference, scored_texts, exhibit):
    """The arrays that lie furthest off, for their storage. Methods that scale channels against each
    other, as AWQ does, make other arrays of the same function: those factors belong to no error."""
    both = compared(directory, reference, scored_texts)
    try:
        figures = numbers(exhibit, lambda: both.errors)
    except ValueError as error:
        pytest.skip(f"arrays cannot be paired: {error}")
    far = sorted(figures, key=lambda path: beyond(figures[path]), reverse=True)
    exhibit.table(
        rows_of({path: figures[path] for path in far[:10]}), columns=COLUMNS,
        title=f"ten of {len(far)} arrays: mean square of what they are off by, over their own",
    )  # fmt: skip
    factors = factors_told(both.stored)
    if factors:
        exhibit.table([[path] for path in both.stored.scaled], columns=["array"], title=factors)

    says = judge(exhibit, f"{factors}mean square off, over the array's own", figures)

    assert worst(figures.values()) == "verified", says


def factors_told(stored):
    """What is found of factors per channel; nothing where none were seen."""
    if stored.undone is None:
        return ""
    apart = f"(KL {stored.undone.value:.2g} nats per token)"
    if stored.scaled:
        return f"the arrays differ by a scale per channel that the next layer undoes {apart}: "
    return f"the arrays differ by a scale per channel that nothing undoes {apart}: "


def lose_an_adapter(tmp_path):
    """The reference has an adapter merged in; the subject is its base, at 4 bits."""
    given = conversions.held_to_itself(tmp_path, conversions.packed)
    adapted = conversions.small(tmp_path / "adapted", conversions.changed(conversions.adapt))
    return {**given, "reference": adapted}


@pytest.mark.claim(id="9.65", falsifier=lose_an_adapter)
def test_the_error_of_each_matrix_looks_like_rounding(directory, reference, scored_texts, exhibit):
    """Rounding to the nearest is off by half a step of the grid at most. Where an error is larger,
    its largest singular value is held to that of honest rounding: a lost adapter's is larger."""
    both = compared(directory, reference, scored_texts)
    try:
        fits = numbers(exhibit, lambda: both.fits)
    except ValueError as error:
        pytest.skip(f"arrays cannot be paired: {error}")
    spectra = {path: fit.spectrum for path, fit in fits.items() if fit.spectrum}
    far = sorted(spectra, key=lambda path: beyond(spectra[path]), reverse=True)
    exhibit.table(
        [[path, 100 * fits[path].beyond, spectra[path].value**0.5, spectra[path].floor**0.5,
          arrays.rank_one_share(spectra[path]), fits[path].verdict] for path in far[:10]],
        columns=["matrix", "further off than rounding (% of numbers)",
                 "largest singular value of the error / norm", "the same of honest rounding",
                 "smallest change of rank one to be seen / norm", "verdict"],
        title=f"{len(far)} of {len(fits)} matrices are not rounded to the nearest",
    )  # fmt: skip
    if not fits:
        pytest.skip("the model has no matrix")
    if not spectra:
        exhibit.measured(
            "numbers further off than rounding to the nearest (share)", 0.0,
            should_be="0: a number moved by a whole step more would be seen",
        )  # fmt: skip
        return
    name = far[0]
    figure = spectra[name]
    ratio = (figure.value / figure.floor) ** 0.5
    change = arrays.rank_one_share(figure)
    says = exhibit.measured(
        f"low-rank part of the error (largest singular value over that of rounding), {name}", ratio,
        should_be="at most 1.41, and is refuted over 2 (was an adapter lost or added?): the "
        f"smallest change of rank one to be seen is {100 * change:.2g} % of the matrix", bound=2,
    )  # fmt: skip
    verdict = arrays.verdict_on(fits, lambda: both.layers)
    if verdict == "inconclusive":
        share = max(fit.beyond for fit in fits.values())
        exhibit.inconclusive(
            f"up to {100 * share:.2g} % of a matrix's numbers are not rounded to the nearest, but "
            f"no low-rank part over {100 * change:.2g} % of the matrix is seen, or none that moves "
            "hidden states: another way to quantise (such as GPTQ), or a small change"
        )
    assert verdict == "verified", says


def turn_positions_faster(tmp_path):
    return conversions.held_to_itself(tmp_path, setting(rope_theta=500.0))


@pytest.mark.claim(id="9.64", falsifier=turn_positions_faster)
def test_the_config_wires_the_arrays_as_the_reference_does(
    directory, reference, scored_texts, exhibit
):
    """The reference is given the subject's own arrays: rounding then sets nothing apart, and any
    distance comes of config.json, such as another rope_theta."""
    try:
        apart = numbers(exhibit, lambda: compared(directory, reference, scored_texts).wiring)
    except ValueError as error:
        pytest.skip(f"arrays cannot be paired: {error}")
    keys = directory.config.keys() | reference.config.keys()
    rows = [[key, directory.config.get(key), reference.config.get(key)] for key in sorted(keys)]
    exhibit.table(
        [row for row in rows if row[1] != row[2]],
        columns=["config.json", directory.name, reference.name],
        title="what the configs say differently",
    )

    says = exhibit.measured(
        "distance of logits", apart.value,
        should_be=f"at most {apart.expected:.2g} of their norm, the smallest change to be seen",
        bound=apart.expected,
    )  # fmt: skip

    assert apart.verdict == "verified", says
