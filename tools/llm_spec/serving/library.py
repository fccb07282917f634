"""What mlx-lm itself says to a prompt: what a server's answer is held to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm import stream_generate
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from llm_spec.model.declare import random_state_kept


@dataclass(frozen=True)
class Said:
    """A text and its tokens."""

    text: str
    ids: list[int]
    logprobs: list[list[float]]
    """Natural logarithms of all probabilities of the model, per token: (tokens, vocabulary)."""
    finish_reason: str


def says(
    model: Any, tokenizer: Any, prompt: Sequence[int], max_tokens: int, *,
    seed: int | None = None, processors: dict[str, Any] | None = None, seen_from: int = 0,
    **sampling: Any,
) -> Said:  # fmt: skip
    """What `stream_generate` says to the ids of `prompt`.

    `sampling` are arguments of mlx-lm's make_sampler, `processors` of its make_logits_processors.
    The processors are shown the tokens from place `seen_from` on.
    MLX's random state is left as it was found.
    """
    with random_state_kept():
        if seed is not None:
            mx.random.seed(seed)
        steps = list(
            stream_generate(
                model, tokenizer, list(prompt), max_tokens=max_tokens,
                sampler=make_sampler(**sampling),
                logits_processors=[
                    lambda tokens, logits, process=process: process(tokens[seen_from:], logits)
                    for process in make_logits_processors(**(processors or {}))
                ],
            )
        )  # fmt: skip
    return Said(
        "".join(step.text for step in steps),
        [step.token for step in steps],
        [step.logprobs.astype(mx.float32).tolist() for step in steps],
        steps[-1].finish_reason,
    )
