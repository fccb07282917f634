"""The fastest that a model can decode on a given memory, and how near a measurement comes.

To make one token, every weight that takes part has to be read from memory once, and so have the
keys and values of all tokens before it. Bandwidth divided by those bytes is a ceiling that no
software lifts (for one conversation at a time; several at once share the reading of the weights).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from llm_spec.model.accounting import WeightGroup, groups, layer_of
from llm_spec.model.dry_run import Call, dry_run
from llm_spec.model.packed import Alike, alike
from llm_spec.model.repeats import Kinds, Repeats
from llm_spec.observe.modules import modules_of, walk

# A list within a layer, the place of an expert in it, and the path from there.
EXPERT = re.compile(r"(.*\.\d+\..*?experts)\.(\d+)(?:\.(.*))?")


@dataclass(frozen=True)
class DecodeRead:
    """Bytes that decoding the next token reads, after `context` tokens."""

    context: int
    weights: int
    cache: int

    @property
    def total(self) -> int:
        """All bytes read for one token."""
        return self.weights + self.cache

    def ceiling(self, bandwidth: float) -> float:
        """Tokens per second that `bandwidth` (bytes/s) allows at most."""
        return bandwidth / self.total

    def share(self, tokens_per_second: float, bandwidth: float) -> float:
        """How much of that ceiling a measured rate reaches; 1.0 is all of it."""
        return tokens_per_second / self.ceiling(bandwidth)


def decode_read(model: nn.Module, context: int) -> DecodeRead:
    """Count the bytes that the decoding step after `context` tokens reads. The model may be
    declared only. Raises ValueError for a context without a token.

    Of a table that is only looked up in, one row; of experts, those that the router picks for one
    token; of everything else, all of it.
    """
    walked, kinds = walk(model), Kinds()
    weights = alike(walked, kinds)
    run = dry_run(model, context, repeats=Repeats(walked, kinds))
    read = shares(walked.modules, run.calls)
    return DecodeRead(context, weights_read(weights, read), run.used)


def weights_read(weights: list[Alike], read: Mapping[str, float]) -> int:
    """Bytes of `weights` of which the modules in `read` read a share, and all others all."""
    each = ((sum(g.bytes for g in m.weights), m.paths) for m in weights)
    return round(sum(bytes_ * sum(read.get(p, 1.0) for p in paths) for bytes_, paths in each))


def shares(modules: Mapping[str, nn.Module], calls: list[Call]) -> dict[str, float]:
    """The share of its weights that each of a model's `modules`, by path, reads in the `calls` of a
    step, where it is called in it or, as an expert in a list, left out."""
    found: dict[int, float] = {}
    for call in calls:
        key = id(call.module)
        found[key] = min(1.0, found.get(key, 0.0) + _share(call))
    read = {path: found[id(m)] for path, m in modules.items() if id(m) in found}
    return read | dict.fromkeys(_left_out(modules, read), 0.0)


def _left_out(modules: Iterable[str], called: Collection[str]) -> Iterator[str]:
    """Experts of which others in the same list were called, and what is in them, by path."""
    lists = {
        found[1]
        for path in called
        if "experts" in path and (found := EXPERT.fullmatch(path)) and not found[3]
    }
    for path in modules if lists else ():
        found = EXPERT.fullmatch(path)
        if found and found[1] in lists and f"{found[1]}.{found[2]}" not in called:
            yield path


def prefill_flops(model: nn.Module, tokens: int) -> int:
    """Floating point operations to read `tokens` of a prompt: two for each weight and token.

    Only the layers count: the head is asked for the last token alone. Attention's own products are
    left out, because they need no weights and grow with the context.
    """
    inside, read = layer_of(model), shares(modules_of(model), dry_run(model, 1).calls)
    used = sum(
        group.parameters * _share_of(group, read)
        for group in groups(model)
        if group.name in inside and len(group.logical_shape) > 1
    )
    return round(2 * used * tokens)


def _share_of(group: WeightGroup, read: Mapping[str, float]) -> float:
    return read.get(group.name.rpartition(".")[0], 1.0)


def _share(call: Call) -> float:
    """The share of a module's weights that one call reads.

    An embedding takes the ids of the rows to look up, mlx-lm's stacked experts take the ids of the
    experts to use as their second argument: one slice of the weight's first axis per id.
    """
    weight = call.module.get("weight")
    if weight is None:
        return 1.0
    if "Embedding" in type(call.module).__name__ and _holds_ids(call.inputs[:1]):
        return call.inputs[0].size / weight.shape[0]
    if weight.ndim == 3 and _holds_ids(call.inputs[1:2]):
        return call.inputs[1].size / weight.shape[0]
    return 1.0


def _holds_ids(inputs: tuple[object, ...]) -> bool:
    return any(isinstance(i, mx.array) and mx.issubdtype(i.dtype, mx.integer) for i in inputs)
