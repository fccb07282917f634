"""What each rank runs to measure a model that many share: its matrices split, its weights random.

    python -m llm_spec.performance.on_ranks

All ranks do the same in lockstep. Nothing here may stop after a time: a rank that did one reduction
less than the others would wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.model import sharding
from llm_spec.model.accounting import total_bytes
from llm_spec.model.declare import declare
from llm_spec.numerics.device import device_name
from llm_spec.performance import bandwidth, memory, roofline, speed
from llm_spec.performance.budget import available
from llm_spec.performance.materialise import materialise
from llm_spec.ranks import member

Group = mx.distributed.Group
CHAIN, ROUNDS = 64, 9  # reductions that follow each other, and how often they are timed


def answer(group: Group, message: Mapping[str, Any]) -> dict[str, Any]:
    """Speed, memory and reductions of one model, as this rank sees them. `message`:

    `config`, and `bits` to pack to (None: not packed); `contexts`, in tokens; `generate` tokens,
    `rounds` times; `batch`: rows that are decoded at once, or 0.

    Raises CannotShare and DoesNotFit.
    """
    on_gpu = mx.default_device().type == mx.gpu
    dtype = mx.bfloat16 if on_gpu else mx.float32  # a CPU computes half types thirty times slower
    model = declare(message["config"], message["bits"], dtype=dtype)
    if group.size() > 1:
        sharding.shard(model, group)
    free = available() if on_gpu else available() // group.size()
    _meet(group)  # nobody takes memory before all have seen what is free
    contexts, generate = message["contexts"], message["generate"]
    materialise(model, max(contexts), generate, free)
    _meet(group)
    stream = bandwidth.memory_bandwidth()
    sizes = reductions(model)
    before = reduction_seconds(group, sizes, dtype)
    rows = [
        _at(model, group, context, generate, message["rounds"], message["config"]["vocab_size"])
        for context in contexts
    ]
    return {
        "device": device_name(),
        "bandwidth": stream.values,
        "weights": total_bytes(model),
        "reductions": len(sizes),
        "reduction_bytes": max(sizes, default=0) * dtype.size,
        "reduction_seconds": before,
        "reduction_seconds_after": reduction_seconds(group, sizes, dtype),
        "rows": rows,
        "batch": _batch(model, group, message),
    }


def _at(
    model: nn.Module, group: Group, context: int, generate: int, rounds: int, vocabulary: int
) -> dict[str, Any]:
    taken = _memory(model, context, generate)
    _meet(group)
    prompt = speed.token_ids(context, vocabulary)
    timed = speed.measure_speed(model, prompt, generate, rounds)
    _meet(group)
    return {
        "context": context,
        "decode": timed.decode.values,
        "prefill": timed.prefill.values,
        "first_token": timed.first_token.values,
        "bytes_per_token": roofline.decode_read(model, context + generate // 2).total,
        "memory": taken,
    }


def _batch(model: nn.Module, group: Group, message: Mapping[str, Any]) -> float | None:
    """Tokens per second of all rows together, after the shortest context."""
    if not message["batch"]:
        return None
    prompt = speed.token_ids(min(message["contexts"]), message["config"]["vocab_size"])
    rate = speed.batch_ceiling(model, prompt, message["batch"])
    _meet(group)
    return rate


def _memory(model: nn.Module, context: int, generate: int) -> dict[str, int] | None:
    """Bytes on this rank while it runs; None where MLX counts none."""
    try:
        taken = memory.measure_memory(model, context, generate)
    except memory.NoCounters:
        return None
    return {"resident": taken.resident, "peak": taken.peak}


def reductions(model: nn.Module) -> list[int]:
    """How many numbers each `all_sum` of one step of decoding adds up, in order. Nothing is
    computed."""
    sizes: list[int] = []
    add = mx.distributed.all_sum

    def counted(numbers: mx.array, **options: Any) -> mx.array:
        sizes.append(numbers.size)
        return add(numbers, **options)

    with patch.object(mx.distributed, "all_sum", counted):
        model(mx.zeros((1, 1), mx.int32), cache=make_prompt_cache(model))
    return sizes


def reduction_seconds(group: Group, sizes: list[int], dtype: mx.Dtype) -> list[float]:
    """How long one of the largest reductions of a step takes, each time in a chain of `CHAIN`: none
    where a step has none."""
    if not sizes:
        return []
    zeros, seconds = mx.zeros((max(sizes),), dtype), []
    for _ in range(ROUNDS + 1):
        _meet(group)
        start, numbers = time.perf_counter(), zeros
        for _ in range(CHAIN):
            numbers = mx.distributed.all_sum(numbers, group=group)
        mx.eval(numbers)
        seconds.append((time.perf_counter() - start) / CHAIN)
    return seconds[1:]  # the first one warms up


def _meet(group: Group) -> None:
    """Wait for all ranks, with nothing left to do on any stream: collectives of two streams mix
    without a word."""
    mx.synchronize(generation_stream)
    mx.synchronize()
    mx.eval(mx.distributed.all_sum(mx.zeros((1,)), group=group))


if __name__ == "__main__":
    member.serve(answer)
