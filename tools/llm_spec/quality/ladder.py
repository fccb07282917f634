"""What each way to store a model costs it: bytes, bits per byte, distance from the original."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from llm_spec.model.quantisation import FLOAT32, Scheme, round_trip
from llm_spec.quality.likelihood import (
    Divergence,
    Encoded,
    bits,
    divergence,
    logprobs_of,
    teacher_forced_logits,
)


@contextmanager
def stored_as(
    model: nn.Module,
    scheme: Scheme,
    rounding: Callable[[mx.array, Scheme], mx.array] | None = None,
) -> Iterator[int]:
    """Give every matrix of a float model the values it would have under a scheme, for a while.

    The matrices are those that `mlx.nn.quantize` would take; `rounding` replaces `round_trip`.
    Yields the bytes that the whole model would take up so stored: quantised matrices at the
    scheme's bits per weight, all else at 16 bits (32 under `FLOAT32`). Restores the weights on the
    way out. Raises ValueError for a model that is quantised already.
    """
    total = sum(weight.size for _, weight in tree_flatten(model.parameters()))
    kept = []
    packed = 0
    try:
        for name, module in model.named_modules():
            if "scales" in module:
                raise ValueError(f"{name} is quantised already; unpack the model first")
            if not hasattr(module, "to_quantized") or module.weight.shape[-1] % scheme.group_size:
                continue
            kept.append((module, module.weight))
            packed += module.weight.size
            module.weight = (rounding or round_trip)(module.weight, scheme)
            mx.eval(module.weight)
        unpacked_bits = 32 if scheme == FLOAT32 else 16
        yield round((packed * scheme.bits_per_weight + (total - packed) * unpacked_bits) / 8)
    finally:
        for module, weight in kept:
            module.weight = weight


@dataclass(frozen=True)
class Rung:
    """What one scheme costs a model: storage, quality, and distance from the unrounded model."""

    scheme: Scheme
    n_bytes: int
    bits_per_byte: float
    divergence: Divergence

    def as_dict(self, tokens_per_s: float | None = None) -> dict[str, Any]:
        """Return the rung as an exhibit of kind "ladder" holds it."""
        return {
            "name": self.scheme.name,
            "bytes": self.n_bytes,
            "bits_per_weight": self.scheme.bits_per_weight,
            "bits_per_byte": self.bits_per_byte,
            "kl_mean": self.divergence.mean_kl,
            "kl_p99": self.divergence.p99_kl,
            "flips": self.divergence.flips / self.divergence.positions,
            "tokens_per_s": tokens_per_s,
        }


def climb(model: nn.Module, texts: Sequence[Encoded], schemes: Iterable[Scheme]) -> list[Rung]:
    """Measure what each scheme costs a float model on the same texts, each in one forward pass.

    Every rung is paired, position by position, with the model as it is given.
    """
    reference = [teacher_forced_logits(model, text.token_ids) for text in texts]
    rungs = []
    for scheme in schemes:
        with stored_as(model, scheme) as n_bytes:
            rounded = [teacher_forced_logits(model, text.token_ids) for text in texts]
        spent = sum(
            bits(logprobs_of(logits, text.token_ids), text) for logits, text in zip(rounded, texts)
        )
        distance = divergence(mx.concatenate(reference), mx.concatenate(rounded))
        rungs.append(Rung(scheme, n_bytes, spent / sum(t.n_bytes for t in texts), distance))
    return rungs
