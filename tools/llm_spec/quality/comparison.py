"""A subject held to its reference: predictions, hidden states, arrays and wiring.

    both = Comparison(model, packed, reference, texts, reference_texts)
    both.kl["mean"].verdict

Everything is computed when first asked for, and once: a forward pass serves all that look at it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log, sqrt

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from llm_spec.model.storage import Arrays, grids_of, holding, storage_of, stored_like
from llm_spec.numerics import distances, tolerances
from llm_spec.observe.recorder import layers_of
from llm_spec.quality import arrays
from llm_spec.quality.arrays import Fit, Scaled
from llm_spec.quality.likelihood import Encoded, position_kl
from llm_spec.quality.passes import (
    Pass,
    Predictions,
    check_weights,
    cut_differently,
    passes,
    predictions,
    reordered_squares,
    sizes,
    square_apart,
)
from llm_spec.quality.reference import HALF_A_BIT, Figure

UNDONE = 4  # times the rounding error of the factors themselves, which is of rows and of columns


@dataclass(frozen=True)
class Stored:
    """The reference, stored as coarsely as the subject is."""

    original: Arrays
    """Its arrays before rounding, with the factors per channel that the subject's show."""
    rounded: Arrays
    predictions: Predictions
    scaled: Mapping[str, Scaled] = field(default_factory=dict)
    """The arrays with such factors, where the factors undo each other."""
    undone: Figure | None = None
    """KL(reference ‖ reference with factors) in nats per token; None where no factors are seen."""


class Comparison:
    """Both models in float32, teacher-forced on the same texts, each by its own tokenizer.

    `packed` is the model as stored. Whatever needs numbers raises `NotNumbers` where one of the two
    has none, and whatever pairs the two raises ValueError where they cannot be paired.
    """

    def __init__(
        self,
        model: nn.Module,
        packed: nn.Module,
        reference: nn.Module,
        texts: Mapping[str, Encoded],
        reference_texts: Mapping[str, Encoded],
    ) -> None:
        self._model, self.reference_model = model, reference
        self.storage, self._grids = storage_of(packed), grids_of(packed)
        self._texts, self._reference_texts = list(texts.values()), list(reference_texts.values())
        self._cut = cut_differently(texts, reference_texts)

    @cached_property
    def _passes(self) -> list[Pass]:
        """The reference's own, all of them: everything is held to their logits."""
        check_weights(self.reference_model, of_subject=False)
        return list(passes(self.reference_model, self._reference_texts, of_subject=False))

    @cached_property
    def reference(self) -> Predictions:
        """The reference's own; its distance is from itself, computed twice on the first text."""
        first = self._reference_texts[:1]
        again = passes(self.reference_model, first, of_subject=False)
        noise = predictions(again, first, self._passes)
        own = predictions(self._passes, self._reference_texts, [])
        return replace(own, distance=noise.distance, first=noise.first)

    @cached_property
    def subject(self) -> Predictions:
        check_weights(self._model, of_subject=True)
        seen = passes(self._model, self._texts, of_subject=True)
        return predictions(seen, self._texts, [] if self._cut else self._passes)

    @property
    def unpaired(self) -> str | None:
        """Why only bits per byte can be compared, or None."""
        if self._cut is None and self.subject.distance is None:
            width = self._passes[0].logits.shape[-1]
            return f"the reference's logits are {width} wide, and the model's are not"
        return self._cut

    @property
    def kl(self) -> dict[str, Figure]:
        """KL(reference ‖ subject) in nats per token: "mean" and "p99". Empty if unpaired."""
        if self.unpaired:
            return {}
        ours, floor, noise = (
            each.apart for each in (self.subject, self.stored.predictions, self.reference)
        )
        mean, p99 = self.reordered_kl
        return {
            "mean": Figure(ours.mean_kl, max(floor.mean_kl, mean), noise.mean_kl),
            "p99": Figure(ours.p99_kl, max(floor.p99_kl, p99), noise.p99_kl),
        }

    @property
    def cost(self) -> Figure:
        """Bits per byte that the subject needs beyond the reference, mean over texts.

        The floor is what rounding costs the reference on these texts; where luck makes that less
        than its KL, which is the cost on text of the reference's own writing, it is the KL.
        """
        excess = self.subject.bits_per_byte - self.reference.bits_per_byte
        rounding = self.stored.predictions.bits_per_byte - self.reference.bits_per_byte
        floor, noise = self.stored.predictions.apart, self.reference.apart
        error = float(excess.std(ddof=1)) / sqrt(len(excess)) if len(excess) > 1 else 0.0
        another_order = sqrt(float(self._reordered_squares.mean()))  # which may cost or save
        least = self._bits_per_byte(max(floor.mean_kl, another_order))
        return Figure(
            float(excess.mean()),
            max(float(rounding.mean()), least),
            self._bits_per_byte(noise.mean_kl),
            sampling_error=2 * error,
        )

    def _bits_per_byte(self, nats_per_token: float) -> float:
        tokens = sum(len(text.token_ids) - text.context for text in self._reference_texts)
        return nats_per_token / log(2) * tokens / sum(t.n_bytes for t in self._reference_texts)

    @cached_property
    def _reordered_squares(self) -> np.ndarray:
        return reordered_squares(
            self._passes, self._reordered(len(layers_of(self.reference_model)))
        )

    @property
    def reordered_kl(self) -> tuple[float, float]:
        """Mean and 99th percentile of KL then: half the variance of e under the probabilities."""
        kl = self._reordered_squares / 2
        return float(kl.mean()), float(np.quantile(kl, 0.99))

    @staticmethod
    def _reordered(layers: int) -> float:
        return tolerances.reordered(mx.float32, layers)

    @cached_property
    def stored(self) -> Stored:
        """Factors per channel that do not undo each other are no part of the original: then they
        are taken for the faults that they are.

        A subject that holds each number of the reference rounded to the nearest, on a grid no
        coarser than its storage asks for, is the reference stored as it is; and where the two are
        wired alike, what it predicts is what the reference then does.
        """
        ours, theirs = self.tensors
        if self._is_rounded:
            alike = not self._cut and self.wiring.verdict == "verified"
            return Stored(theirs, ours, self.subject if alike else self.predict_with(ours))
        undone = None
        if scaled := arrays.scales_per_channel(ours, theirs, self.beyond):
            original = theirs | {path: each.original for path, each in scaled.items()}
            rounded = stored_like(original, ours, self.storage)
            costs = self.predict_with(rounded)
            undone = self._undone(original, costs)
            if undone.verdict == "verified":
                return Stored(original, rounded, costs, scaled, undone)
        rounded = stored_like(theirs, ours, self.storage)
        return Stored(theirs, rounded, self.predict_with(rounded), {}, undone)

    @cached_property
    def beyond(self) -> dict[str, float]:
        """The share of each array's numbers that rounding to the nearest does not explain."""
        return arrays.beyond_rounding(*self.tensors, self.storage, self._grids)

    @property
    def _is_rounded(self) -> bool:
        ours, theirs = self.tensors
        return bool(ours) and not any(
            arrays.is_beyond(share) or arrays.is_coarse(theirs[path], way, self._grids.get(path))
            for path, way in self.storage.items()
            if (share := self.beyond.get(path)) is not None
        )

    def _undone(self, original: Arrays, costs: Predictions) -> Figure:
        """What the factors alone change of the predictions, on the first text.

        Each is known as well as the rounding of the numbers in its row or column allows: its own
        error is to theirs in power as one is to their count. Vectors are taken rounded.
        """
        theirs = self.tensors[1]
        scaled = self.predict_with(original, texts=1)
        vectors = {path: each for path, each in theirs.items() if each.ndim == 1}
        rounded = theirs | stored_like(vectors, self.tensors[0], self.storage)
        least = self.predict_with(rounded, texts=1).apart.mean_kl
        fewest = min(min(each.shape[-2:]) for each in original.values() if each.ndim > 1)
        rounding, _ = position_kl(scaled.first.logits, costs.first.logits)
        floor = least + UNDONE / fewest * float(rounding.mean())
        return Figure(scaled.apart.mean_kl, max(floor, self.reordered_kl[0]))

    def predict_with(self, held: Arrays, texts: int | None = None) -> Predictions:
        """What the reference predicts with other arrays."""
        own, some = self._passes, self._reference_texts[:texts]  # before it holds the others
        if all(held[path] is array for path, array in self.tensors[1].items()):
            return predictions(own[:texts], some, own)
        with holding(self.reference_model, held):
            return predictions(passes(self.reference_model, some, False), some, own)

    @cached_property
    def tensors(self) -> tuple[Arrays, Arrays]:
        """The subject's and the reference's; none of the subject's where they cannot be paired."""
        try:
            return arrays.paired(self._model, self.reference_model)
        except ValueError:
            return {}, dict(tree_flatten(self.reference_model.parameters()))

    @property
    def layers(self) -> list[Figure]:
        """How far the embeddings and then each layer's output on the first text are from the
        reference's: the mean square over tokens of the distance relative to the token's norm.

        Raises ValueError where layers cannot be paired, for their number or width differs.
        """
        if self._cut:
            raise ValueError(self._cut)
        ours, again, rounded = (
            each.first.states for each in (self.subject, self.reference, self.stored.predictions)
        )
        theirs = self._passes[0].states
        if not theirs or (a := sizes(ours)) != (b := sizes(theirs)):
            raise ValueError(f"{a} cannot be paired with {b}" if theirs else "no layers are seen")
        return [
            Figure(
                square_apart(our, their),
                max(square_apart(floor, their), self._reordered(i + 1) ** 2),
                square_apart(other, their),
            )
            for i, (our, their, floor, other) in enumerate(zip(ours, theirs, rounded, again))
        ]

    @cached_property
    def errors(self) -> dict[str, Figure]:
        """How far each array is from its original, by path: mean squares, relative to the array's.

        Raises ValueError where the arrays cannot be paired.
        """
        ours = self._paired()
        original, rounded = self.stored.original, self.stored.rounded
        return {
            path: arrays.error_power(ours[path], original[path], rounded[path])
            for path in self.storage
            if path in original
        }

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """Whether the error of each matrix looks like rounding, by path. Raises as `errors`."""
        ours = self._paired()
        stored, fits = self.stored, {}
        for path, way in self.storage.items():
            if path not in stored.original or ours[path].ndim < 2:
                continue
            array, original, beyond = ours[path], stored.original[path], self.beyond[path]
            if path in stored.scaled:
                grid, slack = self._grids.get(path), stored.scaled[path].slack
                beyond = arrays.share_beyond(array, original, way, grid, slack)
            fits[path] = arrays.fit(array, original, stored.rounded[path], beyond)
        return fits

    def _paired(self) -> Arrays:
        """The subject's arrays. Raises ValueError where they cannot be paired."""
        ours, _ = arrays.paired(self._model, self.reference_model)
        check_weights(self._model, of_subject=True)
        check_weights(self.reference_model, of_subject=False)
        return ours

    @cached_property
    def wiring(self) -> Figure:
        """How far the logits are from what the reference makes of the subject's own arrays.

        Rounding has no part in it, so only what config.json says can set them apart. The value is a
        `distances.distance`. Raises ValueError where the arrays cannot be paired.
        """
        ours = self._paired()
        text = self._reference_texts[:1]
        (seen,) = passes(self._model, text, True) if self._cut else [self.subject.first]
        with holding(self.reference_model, ours):
            (wired,) = passes(self.reference_model, text, of_subject=True)
        apart = distances.distance(np.array(seen.logits), np.array(wired.logits))
        return Figure(apart, self._reordered(len(layers_of(self.reference_model))) / HALF_A_BIT)
