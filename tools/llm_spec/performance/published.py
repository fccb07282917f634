"""What the published models take, as a table: nothing has to be declared, which takes seconds.

`capacity.row` gives a row anew, and claim 9.156 holds each row to it.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from llm_spec.model.steps import Step, pieces
from llm_spec.performance.plan import LONGEST_CONTEXT, ContextCost, Variant, followed

TABLE = Path(__file__).with_name("published.toml")
WIDTHS = (16, 8, 6, 5, 4, 3, 2)
ROOM = 256  # tokens by which mlx-lm's KVCache grows


@dataclass(frozen=True)
class Row:
    """One model: its parameters, the longest context that it was made for, in bytes per token the
    KV cache, the intermediate results and, where attention is not fused, the scores per token
    seen; and by width in bits the bytes of all weights and of those that a token reads."""

    parameters: int
    limit: int
    cache: int
    working: int
    score: int
    weights: dict[str, int]
    read: dict[str, int]


@cache
def rows() -> dict[str, Row]:
    """All rows by name, in the order of the file."""
    tables = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: Row(**table) for name, table in tables.items()}


def variants(
    name: str, widths: Iterable[int], fused: bool, longest: int = LONGEST_CONTEXT
) -> list[Variant]:
    """A published model at each width, with contexts followed as `capacity.variants` does."""
    row = rows()[name]
    steps = _steps(row.cache, followed(row.limit, longest))
    score = 0 if fused else row.score
    working = [step.tokens * (row.working + step.seen * score) for step in steps]
    course = ContextCost(steps, working, row.limit)
    return [
        Variant(
            name=name,
            width=str(width),
            bits=8 * row.weights[str(width)] / row.parameters,
            parameters=row.parameters,
            weights=row.weights[str(width)],
            read=row.read[str(width)],
            course=course,
        )
        for width in widths
    ]


def _steps(per_token: int, prompt: int) -> list[Step]:
    """A prompt is read into caches that keep every token, and have room for more."""
    fed, room, found = [*pieces(prompt), 1], 0, []
    for tokens, seen in zip(fed, accumulate(fed), strict=True):
        if seen > room:
            room = seen - tokens + -(-tokens // ROOM) * ROOM
        found.append(Step(tokens, seen, room * per_token, seen * per_token))
    return found
