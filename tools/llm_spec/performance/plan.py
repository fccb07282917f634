"""Which models, bit widths and contexts a machine has room for, and how fast it can run them."""

from bisect import bisect_right
from dataclasses import dataclass

from llm_spec.model.steps import PREFILL_STEP, Step

LONGEST_CONTEXT = 1 << 20
LEAST_CONTEXT = 2 * PREFILL_STEP + 1  # two pieces, of which a line can be drawn


def followed(limit: int, longest: int) -> int:
    """As far as a context is followed, of a model that was made for `limit` tokens."""
    return min(limit, max(longest, LEAST_CONTEXT))


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
