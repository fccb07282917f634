"""How fast a model reads a prompt and writes tokens, timed as mlx_lm.generate runs it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.generate import generate_step, generation_stream, wired_limit
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.numerics.timing import Sample

Token = TypeVar("Token")


@dataclass(frozen=True)
class Run:
    """One timed generation. Rates are tokens per second, `first_token` is in seconds.

    `decode` divides the tokens made after the first by the time they took. mlx-lm's own
    `generation_tps` divides one token more by the same time, so it reads n / (n - 1) higher.
    """

    first_token: float
    prefill: float
    decode: float


@dataclass(frozen=True)
class Speed:
    """Several runs of the same generation, after a warm-up.

    `first_use` is the seconds to the first token of the first warm-up, 0 without one: what compiles
    at first use is in it, and in no other figure.
    """

    prompt: int
    generated: int
    first_use: float
    first_token: Sample
    prefill: Sample
    decode: Sample


def token_ids(count: int, vocabulary: int, seed: int = 0) -> list[int]:
    """`count` arbitrary ids below `vocabulary`: speed does not depend on which they are."""
    key = mx.random.key(seed)
    return [int(i) for i in np.array(mx.random.randint(0, vocabulary, (count,), key=key))]


def timed(steps: Iterator[Token], arrivals: list[float]) -> Iterator[Token]:
    """Pass `steps` on, and note in `arrivals` when each of them came, in seconds of one clock."""
    for step in steps:
        arrivals.append(time.perf_counter())
        yield step


def rates(prompt: int, start: float, arrivals: Sequence[float]) -> Run:
    """What the `arrivals` of the tokens after a prompt of `prompt` tokens say about speed.

    `start` and `arrivals` are seconds of one clock. Raises ZeroDivisionError for a single arrival.
    """
    first, last = arrivals[0], arrivals[-1]
    return Run(
        first_token=first - start,
        prefill=prompt / (first - start),
        decode=(len(arrivals) - 1) / (last - first),
    )


def run_once(model: nn.Module, prompt: Sequence[int], generated: int) -> Run:
    """Generate `generated` tokens greedily from `prompt` and time both phases.

    Every token is waited for: generate_step returns plain integers. Raises ValueError for fewer
    than two tokens, because one has no rate.
    """
    if generated < 2 or not prompt:
        raise ValueError("Timing needs a prompt and at least two tokens to generate.")
    ids = mx.array(list(prompt))
    mx.eval(ids)
    arrivals: list[float] = []
    with wired_limit(model, [generation_stream]):
        start = time.perf_counter()
        for _ in timed(generate_step(ids, model, max_tokens=generated), arrivals):
            pass
    return rates(len(prompt), start, arrivals)


def measure_speed(
    model: nn.Module,
    prompt: Sequence[int],
    generated: int,
    rounds: int = 5,
    warm_up: int = 1,
) -> Speed:
    """Run `rounds` times after `warm_up` runs that do not count: `run_once`, whose ValueError it
    passes on."""
    before = [run_once(model, prompt, generated) for _ in range(warm_up)]
    runs = [run_once(model, prompt, generated) for _ in range(rounds)]
    return Speed(
        prompt=len(prompt),
        generated=generated,
        first_use=before[0].first_token if before else 0.0,
        first_token=Sample(tuple(r.first_token for r in runs)),
        prefill=Sample(tuple(r.prefill for r in runs), "tok/s"),
        decode=Sample(tuple(r.decode for r in runs), "tok/s"),
    )


def batch_ceiling(
    model: nn.Module, prompt: Sequence[int], rows: int, steps: int = 16, rounds: int = 4
) -> float:
    """Tokens per second that `rows` sequences at once get at most, whatever serves them.

    The fastest of `rounds` times `steps` greedy decode steps of the model after `prompt`, the same
    in each row, and nothing else: no sampler, no text, no other request.
    """
    tokens, cache = mx.array([list(prompt)] * rows), make_prompt_cache(model)

    def step(tokens: mx.array) -> mx.array:
        likeliest = model(tokens, cache=cache)[:, -1:].argmax(axis=-1)
        mx.async_eval(likeliest)  # type: ignore[no-untyped-call]
        return likeliest

    seconds = []
    with wired_limit(model, [generation_stream]):
        for _ in range(rounds):
            tokens = step(tokens)  # the first one reads the prompt
            mx.eval(tokens)
            start = time.perf_counter()
            for _ in range(steps):
                tokens = step(tokens)
            mx.eval(tokens)
            seconds.append(time.perf_counter() - start)
    return rows * steps / min(seconds)
