"""Which part of a quantised model loses what, and which parts deserve more bits.

Parts of the model are put into its reference one at a time, and the predictions held to those of
the reference: each loss is measured, whatever made the arrays, in one forward pass. mlx-lm's
`dynamic_quant` estimates it instead, to first order, from the gradient of the KL on the model
rounded as a whole: one backward pass serves all parts, but its model must be able to take gradients
and be rounded the way that mlx-lm rounds, and the estimate of a part can be negative.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import mlx.core as mx

from llm_spec.model.quantisation import Scheme
from llm_spec.model.storage import Arrays, Storage
from llm_spec.observe.recorder import layer_names
from llm_spec.quality.comparison import Comparison
from llm_spec.quality.passes import Predictions
from llm_spec.quality.reference import A_BIT, Figure

WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits that MLX packs affine weights to."""


@dataclass(frozen=True)
class Loss:
    """What one part of the model costs, the rest being the reference's."""

    part: str
    """A layer ("model.layers.3") with all its tensors, or one tensor by its path."""
    paths: tuple[str, ...]
    kl: Figure
    """KL(reference ‖ reference with this part) in nats per token. The floor is what the same part
    of the reference costs, stored as coarsely."""
    bits_per_byte: float
    """Beyond the reference's, mean over texts; luck may make it negative."""


def layers(both: Comparison) -> dict[str, tuple[str, ...]]:
    """The paths of the tensors of each layer, and of what lies outside the layers by module.

    Tensors that are the reference's own are left out. Raises ValueError where the tensors of the
    two cannot be paired.
    """
    ours, theirs = both.tensors
    if not ours:
        raise ValueError("the model's tensors cannot be paired with the reference's")
    names = layer_names(both.reference_model)
    found: dict[str, list[str]] = {}
    for path in theirs:
        inside = next((name for name in names if path.startswith(f"{name}.")), None)
        if not bool(mx.array_equal(ours[path], theirs[path])):
            found.setdefault(inside or path.rpartition(".")[0], []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def losses(
    both: Comparison, seconds: float = inf, texts: int | None = None
) -> Iterator[tuple[Loss, int]]:
    """The loss of every layer, then of the tensors of the layers that lose most, one by one.

    Each comes with the number of parts that are still to be measured. All layers are measured;
    tensors for `seconds` more. Tensors of a model whose channels are scaled against each other
    stand for nothing alone and are left out. `texts` limits the passages.
    """
    by_layer = layers(both)
    # A layer with one such tensor is that tensor.
    several = {} if both.stored.scaled else {n: p for n, p in by_layer.items() if len(p) > 1}
    left, found = len(by_layer) + sum(map(len, several.values())), []
    for name, paths in by_layer.items():
        left -= 1
        found.append(_loss(both, name if len(paths) > 1 else paths[0], paths, texts))
        yield found[-1], left
    ends = time.monotonic() + seconds
    for layer in ranked(found):
        for path in several.get(layer.part, ()):
            if time.monotonic() > ends:
                return
            left -= 1
            yield _loss(both, path, (path,), texts), left


def ranked(found: Sequence[Loss]) -> list[Loss]:
    """Those that lose most first."""
    return sorted(found, key=lambda loss: loss.kl.value, reverse=True)


def _loss(both: Comparison, name: str, paths: tuple[str, ...], texts: int | None) -> Loss:
    ours, theirs = both.tensors
    rounded = both.stored.rounded

    def put(arrays: Arrays) -> Predictions:
        return both.predict_with(theirs | {path: arrays[path] for path in paths}, texts)

    seen = put(ours)
    as_rounded = all(bool(mx.array_equal(rounded[path], ours[path])) for path in paths)
    least = seen.apart.mean_kl if as_rounded else put(rounded).apart.mean_kl
    least = max(least, both.reordered_kl[0])
    own = both.reference.bits_per_byte[:texts]
    beyond = float((seen.bits_per_byte - own).mean())
    figure = Figure(seen.apart.mean_kl, least, both.reference.apart.mean_kl)
    return Loss(name, paths, figure, beyond)


@dataclass(frozen=True)
class MoreBits:
    """A part that is given more bits: what that costs and what it is expected to save."""

    part: str
    before: int
    after: int
    n_bytes: float
    saves: float
    """Nats per token, as every bit takes three quarters of a part's KL away (claim 8.15)."""


def give_bits(
    found: Sequence[Loss], storage: Storage, sizes: Mapping[str, int], n_bytes: float
) -> list[MoreBits]:
    """Spend `n_bytes` where each saves most: wider packing for some parts, the best first.

    `sizes` are the numbers of each tensor. A part whose tensors are not all packed affine, in the
    same bits, is left as it is.
    """
    widths = {loss.part: width for loss in found if (width := _width(loss, storage))}
    kl = {loss.part: loss.kl.value for loss in found}
    size = {loss.part: sum(sizes[path] for path in loss.paths if _packed(path, storage))
            for loss in found}  # fmt: skip
    now = dict(widths)
    while True:
        steps = [
            (kl[part] * (_left(widths[part], bits) - _left(widths[part], wider)) / cost, part,
             wider, cost)
            for part, bits in now.items()
            if bits < WIDTHS[-1]
            for wider in [next(width for width in WIDTHS if width > bits)]
            if (cost := size[part] * (wider - bits) / 8) <= n_bytes
        ]  # fmt: skip
        if not steps or max(steps)[0] <= 0:
            break
        _, part, wider, cost = max(steps)
        now[part] = wider
        n_bytes -= cost
    given = [
        MoreBits(part, widths[part], bits, size[part] * (bits - widths[part]) / 8,
                 kl[part] * (1 - _left(widths[part], bits)))
        for part, bits in now.items() if bits > widths[part]
    ]  # fmt: skip
    return sorted(given, key=lambda each: each.saves / each.n_bytes, reverse=True)


def _left(before: int, after: int) -> float:
    """The share of a KL that is left at other bits."""
    return A_BIT ** (before - after)


def _packed(path: str, storage: Storage) -> bool:
    return isinstance(storage.get(path), Scheme)


def _width(loss: Loss, storage: Storage) -> int | None:
    ways = [way for path in loss.paths if isinstance(way := storage.get(path), Scheme)]
    widths = {way.bits for way in ways if way.mode == "affine"}
    return widths.pop() if len(widths) == 1 and len(ways) > 0 else None
