"""What models predict on texts, teacher-forced: logits, hidden states, bits, and KL between two."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from llm_spec.observe.hooks import watched
from llm_spec.observe.inputs import locate_non_finite
from llm_spec.observe.recorder import PassRecorder, TraceError, stream
from llm_spec.quality.likelihood import (
    Divergence,
    Encoded,
    bits,
    logprobs_of,
    position_kl,
    teacher_forced_logits,
)

TINY = float(np.finfo(np.float64).tiny)


class NotNumbers(ValueError):
    """A model whose weights or logits are not finite. The text says where."""

    def __init__(self, of_subject: bool, where: str) -> None:
        super().__init__(where)
        self.of_subject = of_subject
        """Whether it is the subject's and not the reference's."""


@dataclass(frozen=True)
class Pass:
    """One forward pass over all tokens of a text but the last."""

    logits: mx.array
    """(tokens, vocabulary) in float32"""
    states: list[np.ndarray]
    """(tokens, width) each: the embeddings, then each layer's output. Empty where not seen."""


@dataclass(frozen=True)
class Predictions:
    """What a model gives on texts: bits per byte, and its distance from a reference."""

    bits_per_byte: np.ndarray
    """(texts,)"""
    distance: Divergence | None
    """None where no logits of the reference can be paired with the model's."""
    first: Pass
    """On the first text."""

    @property
    def apart(self) -> Divergence:
        """The distance. Raises ValueError where there is none."""
        if self.distance is None:
            raise ValueError("logits cannot be paired with the reference's")
        return self.distance


def forward(model: nn.Module, text: Encoded) -> Pass:
    """One pass with its hidden states; without them where the model does not show its layers."""
    ids = text.token_ids[:-1]
    try:
        recorder = PassRecorder(model, ids, on_attention=lambda call: None)
        with watched(model, None, recorder):
            logits = model(mx.array([ids]))[0].astype(mx.float32)
        seen = [stream(each, len(ids)) for each in (recorder.embeddings, *recorder.hidden_states)]
    except (TraceError, AttributeError, ValueError):
        return Pass(teacher_forced_logits(model, text.token_ids), [])
    mx.eval(logits, seen)
    return Pass(logits, [np.asarray(each) for each in seen])


def passes(model: nn.Module, texts: Sequence[Encoded], of_subject: bool) -> Iterator[Pass]:
    """One pass a text, hidden states of the first alone. Raises `NotNumbers`."""
    for i, text in enumerate(texts):
        logits = teacher_forced_logits(model, text.token_ids) if i else None
        seen = forward(model, text) if logits is None else Pass(logits, [])
        broken = int((~mx.isfinite(seen.logits)).any(-1).sum())
        if broken:
            where = f"logits that are no finite numbers, at {broken} of {len(seen.logits)} tokens"
            raise NotNumbers(of_subject, where)
        yield seen


def check_weights(model: nn.Module, of_subject: bool) -> None:
    """Raises `NotNumbers` for a weight that is NaN or infinite."""
    if found := locate_non_finite(model):
        more = f" (and {len(found) - 1} more arrays)" if len(found) > 1 else ""
        raise NotNumbers(of_subject, f"{found[0]} numbers{more}")


def predictions(
    seen: Iterable[Pass], texts: Sequence[Encoded], reference: Sequence[Pass]
) -> Predictions:
    """Score passes one by one, so that only the reference's logits are all held at once.

    An empty `reference` is one that cannot be paired.
    """
    spent, parts, first = [], [], None
    for i, (each, text) in enumerate(zip(seen, texts, strict=True)):
        first = first or each
        spent.append(bits_per_byte(each, text))
        if reference and reference[i].logits.shape == each.logits.shape:
            parts.append(position_kl(reference[i].logits, each.logits))
    assert first is not None, "there is no text to predict"
    distance = Divergence.over(*map(np.concatenate, zip(*parts))) if parts else None
    return Predictions(np.array(spent), distance, first)


def bits_per_byte(seen: Pass, text: Encoded) -> float:
    """Bits for each byte of the text that is predicted."""
    return bits(logprobs_of(seen.logits, text.token_ids), text) / text.n_bytes


def cut_differently(texts: Mapping[str, Encoded], reference: Mapping[str, Encoded]) -> str | None:
    """Why the ids of two tokenizers cannot be compared; None where they cut all texts alike."""
    for name in texts:
        ours, theirs = texts[name].token_ids, reference[name].token_ids
        if ours != theirs:
            differs = (i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
            at = next(differs, min(len(ours), len(theirs)))
            return f"the tokenizers cut the passage {name!r} differently from token {at} on"
    return None


def sizes(states: Sequence[np.ndarray]) -> str:
    """How many layers, and how wide, in words."""
    widths = " or ".join(str(width) for width in sorted({each.shape[-1] for each in states}))
    return f"{len(states) - 1} layers of width {widths}"


def square_apart(states: np.ndarray, reference: np.ndarray) -> float:
    """Mean square over tokens of the distance relative to the reference's norm."""
    off = np.square(states - reference, dtype=np.float64).sum(-1)
    return float(np.mean(off / np.maximum(np.square(reference, dtype=np.float64).sum(-1), TINY)))


def reordered_squares(seen: Iterable[Pass], reordered: float) -> np.ndarray:
    """What the same sums in another order may change a logit by, squared, at each position.

    They move a row z of logits by an error of norm `reordered`·|z|, which knows nothing of the
    probabilities: so its numbers have the mean square reordered²·(mean of z²).
    """
    squares = [np.array(mx.square(each.logits).mean(-1)) for each in seen]
    return reordered**2 * np.concatenate(squares).astype(np.float64)
