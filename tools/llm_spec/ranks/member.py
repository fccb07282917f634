"""The side of a rank: joins the group, then answers one message after the other, as all ranks do.

Messages come as lines of JSON on standard input, and answers go to standard output. Whatever else
is printed goes to standard error, which the parent keeps per rank.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from llm_spec.processes.pipes import channel, tell

Answer = Callable[[mx.distributed.Group, dict[str, Any]], dict[str, Any]]


def serve(answer: Answer) -> None:
    """Join the group that the parent names, and answer its messages until it ends this process.

    It tells its versions before it joins; the first message is `{backend, run, count}`. An error is
    told as the answer, and ends the process.
    """
    out = channel()
    try:
        tell(out, {"versions": versions()})
        group = join(**_next_message())
        tell(out, {"rank": group.rank(), "size": group.size()})
        while True:
            tell(out, answer(group, _next_message()))
    except Exception as error:
        tell(out, {"raised": f"{type(error).__name__}: {error}"})
        out.flush()
        os._exit(1)  # the group's end could wait for the others


def versions() -> dict[str, str]:
    """The versions of what computes, which must be the same on all ranks."""
    return {name: version(name) for name in ("mlx", "mlx-lm")}


def join(backend: str, run: int, count: int) -> mx.distributed.Group:
    """The group of all `count` ranks of one run. Raises RuntimeError for a backend or a GPU that is
    not there, a port that is taken and a ring that holds ranks of another run."""
    if not mx.distributed.is_available(backend):
        raise RuntimeError(f"this MLX has no backend {backend!r}")
    if backend == "nccl" and not mx.device_count(mx.gpu):
        raise RuntimeError(f"there is no GPU {os.environ['CUDA_VISIBLE_DEVICES']}")
    if count == 1:  # MLX waits for ever in a ring of one
        del os.environ["MLX_RANK"]
        return mx.distributed.init(backend="ring")
    # Without `strict` and a backend, a group that cannot be joined is a group of one.
    group = mx.distributed.init(strict=True, backend=backend)
    runs = mx.distributed.all_gather(mx.array([run]), group=group)
    if not (runs == run).all().item():
        raise RuntimeError(f"the ring holds ranks of another run: {runs.tolist()}")
    return group


def _next_message() -> dict[str, Any]:
    message: dict[str, Any] = json.loads(sys.stdin.readline())
    return message
