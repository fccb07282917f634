"""What a model needs in memory, predicted before it is loaded and measured while it runs.

Three parts: the weights; the caches of keys and values, which mlx-lm's cache classes grow in steps
of 256 tokens; and the intermediate results of a step. The first two are exact. The third depends
on how far a device runs ahead of itself and is an estimate, which matters while a prompt is read
and hardly while tokens are made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import psutil
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step, generation_stream
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.model.accounting import total_bytes
from llm_spec.model.dry_run import dry_run
from llm_spec.model.steps import PREFILL_STEP
from llm_spec.performance.intermediate import working_set


class NoCounters(RuntimeError):
    """This device does not count its memory. The text is one sentence."""


@dataclass(frozen=True)
class Prediction:
    """Bytes that a run needs. `weights` and `cache` are exact, `peak` holds an estimate.

    `cache` is what is allocated at the end of the run.
    """

    weights: int
    cache: int
    peak: int
    """The most that is allocated at any time: compare mx.get_peak_memory."""

    @property
    def resident(self) -> int:
        """What stays allocated after the run: compare mx.get_active_memory."""
        return self.weights + self.cache

    @property
    def working(self) -> int:
        """What the peak needs beyond what stays: intermediate results, gone after the run."""
        return self.peak - self.resident


@dataclass(frozen=True)
class Measurement:
    """Bytes that a run took, beyond what other arrays held before it.

    `resident` (mx.get_active_memory) is what arrays hold after the run, `prefill_peak` and
    `decode_peak` (mx.get_peak_memory) the most they held during either phase. `rss` is the
    process's resident set: code and all, but on a discrete GPU not the arrays, which are there.
    """

    resident: int
    prefill_peak: int
    decode_peak: int
    rss: int

    @property
    def peak(self) -> int:
        """The most that arrays held at any time of the run."""
        return max(self.prefill_peak, self.decode_peak)


def predict(
    model: nn.Module, prompt: int, generated: int = 0, prefill_step: int = PREFILL_STEP
) -> Prediction:
    """Predict the memory for reading `prompt` tokens and making `generated` more.

    `prefill_step` is how many tokens of the prompt are read at once. The model may be declared
    only; the same caches are asked as in a real run. Raises ValueError for an empty prompt.
    """
    run = dry_run(model, prompt, generated, prefill_step)
    weights = total_bytes(model)
    working = working_set(model, dry_run(model, 1).calls, fused=mx.default_device().type == mx.gpu)
    peak = max(step.allocated + working(step) for step in run.steps)
    return Prediction(weights=weights, cache=run.allocated, peak=weights + peak)


def measure_memory(
    model: nn.Module, prompt: int, generated: int, limit: int | None = None
) -> Measurement:
    """Run `model` with mlx_lm.generate_step and read MLX's counters and the process's.

    Token ids are zeros: memory does not depend on them. MLX queues work ahead of a GPU and keeps
    what it needs until it is done; above `limit` bytes it waits instead. Raises NoCounters where
    MLX counts nothing, and ValueError for a run without a prompt or without a generated token.
    """
    if prompt < 1 or generated < 1:
        raise ValueError("Measuring needs a prompt and a generated token.")
    mx.eval(model.parameters())
    arrays = {id(array): array.nbytes for _, array in tree_flatten(model.parameters())}
    others = mx.get_active_memory() - sum(arrays.values())
    if mx.get_active_memory() == 0:
        raise NoCounters(f"MLX does not count memory on {mx.default_device()}.")
    caches = make_prompt_cache(model)
    with _limited(None if limit is None else limit + others):
        mx.clear_cache()
        mx.reset_peak_memory()
        steps = generate_step(
            mx.zeros(prompt, mx.int32), model, max_tokens=generated, prompt_cache=caches
        )
        next(steps)
        prefill_peak = mx.get_peak_memory()
        mx.reset_peak_memory()
        for _ in steps:
            pass
        mx.synchronize(generation_stream)  # a token that nobody asked for was begun
        mx.synchronize()
    return Measurement(
        resident=mx.get_active_memory() - others,
        prefill_peak=prefill_peak - others,
        decode_peak=mx.get_peak_memory() - others,
        rss=psutil.Process().memory_info().rss,
    )


@contextmanager
def _limited(limit: int | None) -> Iterator[None]:
    """MLX waits for queued work while arrays hold more than `limit` bytes."""
    if limit is None:
        yield
        return
    before = mx.set_memory_limit(limit)
    try:
        yield
    finally:
        mx.set_memory_limit(before)
