"""Which models, bit widths and contexts a machine has room for, and how fast it can run them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx import nn
from mlx_lm.utils import load_model

from llm_spec.model.accounting import bits_per_weight, total_bytes, total_parameters
from llm_spec.model.config import text_config
from llm_spec.model.declare import BadConfig, declare
from llm_spec.model.dry_run import Step, dry_run
from llm_spec.performance.memory import working_set
from llm_spec.performance.roofline import decode_read

LONGEST_CONTEXT = 1 << 20
DEFAULT_CONTEXT = 32_768


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

    `working` are the bytes of intermediate results of each of the `steps`.
    """

    steps: list[Step]
    working: list[int]

    def beyond(self, context: int) -> int:
        """The most bytes that caches and intermediate results take up to `context` tokens."""
        return max(s.allocated + w for s, w in self._until(context))

    def read(self, context: int) -> int:
        """Bytes of the caches that a token after `context` tokens reads."""
        last, _ = self._until(context)[-1]
        return last.used * context // last.seen

    @property
    def longest(self) -> int:
        """Tokens of the longest context that was followed."""
        return self.steps[-1].seen

    def _until(self, context: int) -> list[tuple[Step, int]]:
        pairs = list(zip(self.steps, self.working, strict=True))
        inside = [pair for pair in pairs if pair[0].seen <= context]
        # A context between two steps is rounded up to the later one.
        return pairs[: len(inside) + (not inside or inside[-1][0].seen < context)]


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
        return context <= self.course.longest and self.needs(context) <= machine.budget

    def longest(self, machine: Machine) -> int:
        """The longest prompt that fits, in whole steps of reading; 0 where none does."""
        return max(
            (s.seen for s in self.course.steps if self.fits(machine, s.seen)),
            default=0,
        )

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
    longest: int | None = None,
) -> list[Variant]:
    """Declare the model of `config` at each width (None: 16 bits, not packed) and take its measure.

    Contexts are followed as far as the model was made for, or to `longest` tokens. Raises BadConfig
    where mlx-lm cannot build it.
    """
    context = min(_context(config), longest or LONGEST_CONTEXT)
    course = _context_cost(declare(config, bits=None), context, fused)
    found = []
    for bits in widths:
        width = str(bits or 16)
        found.append(_variant(name, width, declare(config, bits=bits), course))
    return found


def stored(directory: Path, fused: bool) -> list[Variant]:
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
    return [_variant(directory.name, width, model, _context_cost(model, _context(config), fused))]


def _variant(name: str, width: str, model: nn.Module, course: ContextCost) -> Variant:
    return Variant(
        name=name,
        width=width,
        bits=bits_per_weight(model),
        parameters=total_parameters(model),
        weights=total_bytes(model),
        read=decode_read(model, 1).weights,
        course=course,
    )


def _context_cost(model: nn.Module, context: int, fused: bool) -> ContextCost:
    run = dry_run(model, context)
    working = working_set(model, fused)
    return ContextCost(run.steps, [working(step) for step in run.steps])


def _context(config: Mapping[str, Any]) -> int:
    """The longest context that the model was made for, as far as its configuration says."""
    for level in (config, text_config(config)):
        said = level.get("max_position_embeddings")
        if isinstance(said, int) and said > 0:
            return min(said, LONGEST_CONTEXT)
    return DEFAULT_CONTEXT
