"""Holding a model to a reference: how far the two are apart, and how far storage lets them be.

The reference is stored as coarsely as the subject is, and what that costs it is the floor of each
figure: a subject that is the reference, converted, lands there.

The rule. Rounding errors add up as independent ones do, so every figure of power (KL, bits, squares
of distances) grows with the square of the rounding step: one bit fewer makes four times the floor,
as claim 8.15 measures, and half a bit two times. So a figure up to twice its floor is *verified*:
whoever rounds may choose other scales and other numbers to round than MLX does, and half a bit is
room for that. Over four times its floor it is *refuted*: the subject errs as if it were stored with
a bit less than it is, and that is no rounding. Between the two it is *inconclusive*. Noise that the
device shows when it repeats itself is added to both bounds; luck, which a few passages may have, is
no evidence and widens only the second.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.model.storage import (
    Storage,
    holding,
    mean_square,
    mean_square_rounding,
    stored_like,
)
from llm_spec.numerics import distances, tolerances
from llm_spec.observe.trace import trace
from llm_spec.quality.likelihood import (
    Divergence,
    Encoded,
    bits,
    divergence,
    logprobs_of,
    position_kl,
    teacher_forced_logits,
)

HALF_A_BIT, A_BIT = 2.0, 4.0
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Figure:
    """One figure of the subject's distance from its reference, and what it is judged by."""

    value: float
    floor: float
    """What the reference shows when it is stored as the subject is."""
    noise: float = 0.0
    """What the reference shows when it is computed twice."""
    sampling_error: float = 0.0
    """Twice the standard error over passages, of a figure that may fall either way."""

    @property
    def expected(self) -> float:
        """The most that is verified."""
        return HALF_A_BIT * self.floor + tolerances.repeated(self.noise)

    @property
    def bound(self) -> float:
        """The most that is not refuted."""
        return A_BIT * self.floor + tolerances.repeated(self.noise) + self.sampling_error

    @property
    def verdict(self) -> str:
        if self.value <= self.expected:
            return "verified"
        return "inconclusive" if self.value <= self.bound else "refuted"


def worst(figures: Iterable[Figure]) -> str:
    """The verdict on several figures: all must be verified, and one can refute."""
    verdicts = {figure.verdict for figure in figures}
    return next(v for v in ("refuted", "inconclusive", "verified") if v in verdicts)


# ── Predictions ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Predictions:
    """What a model gives on each text: bits per byte, and its distance from a reference."""

    bits_per_byte: np.ndarray
    """(texts,)"""
    distance: Divergence | None
    """None where no logits of the reference can be paired with the model's."""


@dataclass(frozen=True)
class Comparison:
    """A subject's predictions beside those of its reference, on the same texts."""

    subject: Predictions
    reference: Predictions
    rounded: Predictions
    """The reference, stored as the subject is."""
    repeated: Divergence
    """The reference from itself, computed twice on the first text."""
    bytes_per_token: float
    """Of the reference's tokenizer."""
    unpaired: str | None
    """Why only bits per byte can be compared, or None."""

    @property
    def kl(self) -> dict[str, Figure]:
        """KL(reference ‖ subject) in nats a token: "mean" and "p99". Empty if unpaired."""
        ours, floor, noise = self.subject.distance, self.rounded.distance, self.repeated
        if ours is None or floor is None:
            return {}
        return {
            "mean": Figure(ours.mean_kl, floor.mean_kl, noise.mean_kl),
            "p99": Figure(ours.p99_kl, floor.p99_kl, noise.p99_kl),
        }

    @property
    def cost(self) -> Figure:
        """Bits a byte that the subject needs beyond the reference, mean over texts.

        The floor is what rounding costs the reference on these texts; where luck makes that less
        than its KL, which is the cost on text of the reference's own writing, it is the KL.
        """
        excess = self.subject.bits_per_byte - self.reference.bits_per_byte
        rounding = float((self.rounded.bits_per_byte - self.reference.bits_per_byte).mean())
        floor = self.rounded.distance
        assert floor is not None  # a model is always paired with itself
        error = float(excess.std(ddof=1)) / sqrt(len(excess)) if len(excess) > 1 else 0.0
        return Figure(
            float(excess.mean()),
            max(rounding, self._bits_a_byte(floor.mean_kl)),
            self._bits_a_byte(self.repeated.mean_kl),
            sampling_error=2 * error,
        )

    def _bits_a_byte(self, nats_a_token: float) -> float:
        return nats_a_token / log(2) / self.bytes_per_token


def compare(
    model: nn.Module,
    reference: nn.Module,
    storage: Storage,
    texts: Mapping[str, Encoded],
    reference_texts: Mapping[str, Encoded],
) -> Comparison:
    """Hold `model` to `reference`, both in float32, teacher-forced on the same texts.

    `storage` is how the model is stored, as `storage_of` tells; `texts` are the same strings as
    `reference_texts`, each by its own model's tokenizer. Raises ValueError for logits that are not
    finite.
    """
    theirs = list(reference_texts.values())
    logits = [teacher_forced_logits(reference, text.token_ids) for text in theirs]
    again = teacher_forced_logits(reference, theirs[0].token_ids)
    why = _cut_differently(texts, reference_texts)
    ours = _predictions(model, list(texts.values()), None if why else logits)
    if why is None and ours.distance is None:
        why = f"the reference's logits are {logits[0].shape[-1]} wide, and the model's are not"
    with stored_like(reference, model, storage):
        rounded = _predictions(reference, theirs, logits)
    spent = [_bits_per_byte(each, text) for each, text in zip(logits, theirs)]
    return Comparison(
        subject=ours,
        reference=Predictions(np.array(spent), None),
        rounded=rounded,
        repeated=divergence(logits[0], again),
        bytes_per_token=sum(t.n_bytes for t in theirs)
        / sum(len(t.token_ids) - t.context for t in theirs),
        unpaired=why,
    )


def _predictions(
    model: nn.Module, texts: Sequence[Encoded], reference: Sequence[mx.array] | None
) -> Predictions:
    """Score texts one by one, so that only the reference's logits are all held at once."""
    spent, parts = [], []
    for i, text in enumerate(texts):
        logits = teacher_forced_logits(model, text.token_ids)
        spent.append(_bits_per_byte(logits, text))
        if reference is not None and reference[i].shape == logits.shape:
            parts.append(position_kl(reference[i], logits))
    distance = Divergence.over(*map(np.concatenate, zip(*parts))) if parts else None
    return Predictions(np.array(spent), distance)


def _bits_per_byte(logits: mx.array, text: Encoded) -> float:
    return bits(logprobs_of(logits, text.token_ids), text) / text.n_bytes


def _cut_differently(texts: Mapping[str, Encoded], reference: Mapping[str, Encoded]) -> str | None:
    """Why the ids of two tokenizers cannot be compared; None where they cut all texts alike."""
    for name in texts:
        ours, theirs = texts[name].token_ids, reference[name].token_ids
        if ours != theirs:
            differs = (i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
            at = next(differs, min(len(ours), len(theirs)))
            return f"the tokenizers cut the passage {name!r} differently from token {at} on"
    return None


# ── Hidden states ───────────────────────────────────────────────────────────────────────────────


def layer_divergence(
    model: nn.Module, reference: nn.Module, storage: Storage, token_ids: list[int]
) -> list[Figure]:
    """How far the embeddings and then each layer's output are from the reference's: one figure
    each, the mean square over tokens of the distance relative to the token's norm.

    Raises ValueError where layers cannot be paired, for their number or width differs.
    """
    theirs = _states(reference, token_ids)
    ours = _states(model, token_ids)
    if (a := _sizes(ours)) != (b := _sizes(theirs)):
        raise ValueError(f"{a} cannot be paired with {b}")
    noise = _squares(_states(reference, token_ids), theirs)
    with stored_like(reference, model, storage):
        floor = _squares(_states(reference, token_ids), theirs)
    return [Figure(*each) for each in zip(_squares(ours, theirs), floor, noise, strict=True)]


def _states(model: nn.Module, token_ids: list[int]) -> list[np.ndarray]:
    seen = trace(model, token_ids, verify=False)
    return [seen.embeddings, *seen.hidden_states]


def _sizes(states: Sequence[np.ndarray]) -> str:
    widths = " or ".join(str(width) for width in sorted({each.shape[-1] for each in states}))
    return f"{len(states) - 1} layers of width {widths}"


def _squares(states: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> list[float]:
    """Mean square over tokens, one number a layer, relative to the reference's norms."""
    return [
        float(np.mean(_row_squares(ours - theirs) / np.maximum(_row_squares(theirs), TINY)))
        for ours, theirs in zip(states, reference, strict=True)
    ]


def _row_squares(rows: np.ndarray) -> np.ndarray:
    return np.square(rows, dtype=np.float64).sum(-1)


# ── Arrays and wiring ───────────────────────────────────────────────────────────────────────────


def array_divergence(model: nn.Module, reference: nn.Module, storage: Storage) -> dict[str, Figure]:
    """How far each array is from the reference's, by path: mean squares, relative to the array's.

    Raises ValueError where the arrays cannot be paired.
    """
    ours, theirs = _paired_arrays(model, reference)
    figures = {}
    for path in theirs.keys() & storage.keys():  # what is no float is not rounded, either
        array = theirs[path]
        size = max(mean_square(array), float(TINY))
        off = mean_square(ours[path] - array)
        floor = mean_square_rounding(array, storage[path]) if off else 0.0
        figures[path] = Figure(off / size, floor / size)
    return figures


def wiring_distance(model: nn.Module, reference: nn.Module, token_ids: list[int]) -> float:
    """How far the model's logits are from what the reference makes of the model's own arrays.

    Rounding has no part in it, so only what config.json says can set them apart. The result is a
    `distances.distance`. Raises ValueError where the arrays cannot be paired.
    """
    ours, _ = _paired_arrays(model, reference)
    with holding(reference, ours):
        theirs = teacher_forced_logits(reference, token_ids)
    logits = teacher_forced_logits(model, token_ids)
    return distances.distance(np.array(logits), np.array(theirs))


def _paired_arrays(
    model: nn.Module, reference: nn.Module
) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    ours, theirs = (dict(tree_flatten(each.parameters())) for each in (model, reference))
    if differ := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(f"only one of them has {differ[0]}")
    for path, array in theirs.items():
        if array.shape != ours[path].shape:
            raise ValueError(f"{path} has shape {ours[path].shape} and {array.shape}")
    return ours, theirs
