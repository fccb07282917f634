"""One model for two libraries, and what came of holding them beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

LENGTHS = (7, 24, 64, 100)
"""Tokens of the prompts: shorter and longer than windows of 8 and an original context of 32."""
BOUND = 1e-4
"""Largest distance of a row of logits, relative to its norm. Types that agree show at most 3.8e-5
in float32; the smallest real fault showed 1.5e-4."""

Ended = Literal["compared", "not built", "not written", "not loaded", "not computed", "crashed"]
Side = Literal["transformers", "mlx-lm"]
Mend = Callable[[], None]
"""Changes one library in this process so that the two agree: the reason for a disagreement."""


@dataclass(frozen=True)
class File:
    """How the file that transformers writes must be changed before mlx-lm loads it.

    Attributes:
        original_format: whether transformers undoes the changes that it makes when it reads.
        names: patterns of tensor names and what replaces them, in this order.
        transposed: pattern of the new names whose last two dimensions are swapped.
        dropped: pattern of the names of weights that mlx-lm has no place for.
        text_only: whether transformers builds the text model alone, out of the settings of
            text_config, and mlx-lm gets it within the whole.
        within: the type that transformers builds, where mlx-lm gets the text model of it alone.
    """

    original_format: bool = True
    names: Sequence[tuple[str, str]] = ()
    transposed: str = ""
    dropped: str = ""
    text_only: bool = False
    within: str = ""


@dataclass(frozen=True)
class Pair:
    """A tiny model that both libraries are given.

    Attributes:
        model_type: as config.json names it.
        settings: what a config.json of the type states, tiny.
        as_written_today: whether mlx-lm gets config.json as transformers writes it; otherwise the
            settings stand in it too, under the names that they have here.
        file: how the file of weights is changed, unless as written today.
        lengths: tokens of the prompts.
        router_bias: what is added to each bias by which experts are chosen.
    """

    model_type: str
    settings: Mapping[str, Any]
    as_written_today: bool = False
    file: File = field(default_factory=File)
    lengths: Sequence[int] = LENGTHS
    seed: int = 0
    router_bias: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of one comparison.

    Attributes:
        ended: "compared", or the step that one side could not do.
        says: why, where nothing was compared: the error in one line.
        side: the library that could not.
        distances: largest distance of a row of logits by way ("whole", "cached", "chunked",
            "batched") and prompt length in tokens; infinite where a side computes NaN.
        first: the first position that differs by more than `BOUND`, of the longest prompt whole.
        unmoved: weights of mlx-lm that move no logit by more than `BOUND` when each of their values
            moves by 5 %; None where that was not asked for.
        turned: largest distance of transformers' logits from its logits of the pair beside; None
            where none was given.
        unwritten: settings of the pair that transformers leaves out of config.json.
        seconds, peak_memory: of the comparison's process, in seconds and bytes.
    """

    ended: Ended
    says: str = ""
    side: Side | None = None
    distances: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    first: int | None = None
    unmoved: Sequence[str] | None = None
    turned: float | None = None
    unwritten: Sequence[str] = ()
    seconds: float = 0.0
    peak_memory: int = 0
