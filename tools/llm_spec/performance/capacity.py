"""Which models, bit widths and contexts a machine has room for, and how fast it can run them."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx import nn
from mlx_lm.utils import load_model

from llm_spec.model.accounting import bits_per_weight, groups
from llm_spec.model.config import text_config
from llm_spec.model.declare import BadConfig, declare
from llm_spec.model.dry_run import PREFILL_STEP, Step, dry_run
from llm_spec.performance.memory import working_set
from llm_spec.performance.roofline import shares, weights_read

LONGEST_CONTEXT = 1 << 20
DEFAULT_CONTEXT = 32_768
LEAST_CONTEXT = 2 * PREFILL_STEP + 1  # two pieces, of which a line can be drawn


@dataclass(frozen=True)
class Machine:
    """A machine to plan for: `budget` bytes for the model, `bandwidth` in bytes/s if it is known.

    `about` says in words where both come from, `fused` whether attention has a kernel that keeps
    its scores to itself, as on a GPU.
    """

    budget: int
    bandwidth: float | None
    about: str
    fused: bool


@dataclass(frozen=True)
class ContextCost:
    """What reading a prompt takes beyond the weights: it does not depend on their width.

    `working` are the bytes of intermediate results of each of the `steps`; `limit` are the tokens
    of the longest context that the model was made for, which may be more than were followed.
    """

    steps: list[Step]
    working: list[int]
    limit: int

    def beyond(self, context: int) -> int:
        """The most bytes that caches and intermediate results take up to `context` tokens.

        Beyond the context that was followed, as much is added per token as over the last piece.
        """
        most = max(s.allocated + w for s, w in self._until(context))
        return most + round(self._per_token() * max(0, context - self.steps[-1].seen))

    def read(self, context: int) -> int:
        """Bytes of the caches that a token after `context` tokens reads."""
        last, _ = self._until(context)[-1]
        return last.used * context // last.seen

    def _until(self, context: int) -> list[tuple[Step, int]]:
        pairs = list(zip(self.steps, self.working, strict=True))
        inside = [pair for pair in pairs if pair[0].seen <= context]
        # A context between two steps is rounded up to the later one.
        return pairs[: len(inside) + (not inside or inside[-1][0].seen < context)]

    def _per_token(self) -> float:
        """Bytes that one more token adds, by the last two whole pieces of the prompt."""
        pairs = zip(self.steps, self.working, strict=True)
        whole = [(s.seen, s.allocated + w) for s, w in pairs if s.tokens == self.steps[0].tokens]
        if len(whole) < 2:
            return self.steps[-1].allocated / self.steps[-1].seen
        (before, less), (seen, more) = whole[-2:]
        return (more - less) / (seen - before)


@dataclass(frozen=True)
class Variant:
    """One model at one width: "4", "16", or as it is "stored".

    `bits` is what a weight costs with its share of the scales, `weights` are the bytes of all
    weights, `read` those that a decoded token reads.
    """

    name: str
    width: str
    bits: float
    parameters: int
    weights: int
    read: int
    course: ContextCost

    def needs(self, context: int) -> int:
        """Bytes for the weights and a prompt of `context` tokens."""
        return self.weights + self.course.beyond(context)

    def fits(self, machine: Machine, context: int) -> bool:
        """Whether the model was made for such a context and the machine has room for it."""
        return context <= self.course.limit and self.needs(context) <= machine.budget

    def longest(self, machine: Machine) -> int:
        """The longest prompt that fits, in whole pieces of reading; 0 where none does."""
        limit = self.course.limit
        prompts = [*range(PREFILL_STEP, limit, PREFILL_STEP), limit]
        fitting = bisect_right(prompts, machine.budget, key=self.needs)
        return prompts[fitting - 1] if fitting else 0

    def ceiling(self, machine: Machine, context: int) -> float | None:
        """Tokens per second that the machine's bandwidth allows after `context` tokens."""
        if machine.bandwidth is None:
            return None
        return machine.bandwidth / (self.read + self.course.read(context))


def variants(
    name: str,
    config: Mapping[str, Any],
    widths: Iterable[int | None],
    fused: bool,
    longest: int = LONGEST_CONTEXT,
) -> list[Variant]:
    """Declare the model of `config` at each width (None: 16 bits, not packed) and take its measure.

    Contexts are followed as far as the model was made for, or to `longest` tokens; what a longer
    one costs is a line from there. Raises BadConfig where mlx-lm cannot build it.
    """
    model = declare(config, bits=None)
    costs = _costs(model, config, longest, fused)
    found = []
    for bits in widths:
        packed = model if bits is None else declare(config, bits=bits)
        found.append(_variant(name, str(bits or 16), packed, *costs))
    return found


def stored(directory: Path, fused: bool, longest: int = LONGEST_CONTEXT) -> list[Variant]:
    """The model that lies in a directory, as it is stored; none where it holds no weights.

    Weights are mapped, not read, and no code of the directory is run. Raises BadConfig.
    """
    if not any(directory.glob("model*.safetensors")):
        return []
    try:
        model, config = load_model(directory, lazy=True)
    except Exception as error:  # whatever a stranger's files make the loader raise
        raise BadConfig(f"{directory.name} cannot be loaded: {error}") from error
    width = f"{bits_per_weight(model):.2g} stored"
    return [_variant(directory.name, width, model, *_costs(model, config, longest, fused))]


def _variant(
    name: str, width: str, model: nn.Module, course: ContextCost, read: Mapping[str, float]
) -> Variant:
    weights = groups(model)
    stored, parameters = sum(g.bytes for g in weights), sum(g.parameters for g in weights)
    return Variant(
        name=name,
        width=width,
        bits=8 * stored / parameters,
        parameters=parameters,
        weights=stored,
        read=weights_read(weights, read),
        course=course,
    )


def _costs(
    model: nn.Module, config: Mapping[str, Any], longest: int, fused: bool
) -> tuple[ContextCost, dict[str, float]]:
    """What a context costs, and the share of each module's weights that a token reads."""
    limit = _context(config)
    followed = min(limit, max(longest, LEAST_CONTEXT))
    run, calls = dry_run(model, followed), dry_run(model, 1).calls
    working = working_set(model, calls, fused)
    course = ContextCost(run.steps, [working(step) for step in run.steps], limit)
    return course, shares(model, calls)


def _context(config: Mapping[str, Any]) -> int:
    """The longest context that the model was made for, as far as its configuration says."""
    for level in (config, text_config(config)):
        said = level.get("max_position_embeddings")
        if isinstance(said, int) and said > 0:
            return min(said, LONGEST_CONTEXT)
    return DEFAULT_CONTEXT
