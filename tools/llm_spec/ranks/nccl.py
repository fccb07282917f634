"""What the processes of one host must know of each other to meet through NCCL: a port, and which
GPU is whose."""

from __future__ import annotations

import os
from collections.abc import Sequence

from llm_spec.ranks.ring import free_port


class Nccl:
    """One GPU of this host for each rank, of those that CUDA_VISIBLE_DEVICES names, where it is
    set. MLX computes on the first GPU that a process sees: so each sees its own alone.

    Args:
        ports: the first of them is the one on which the ranks meet; by default a free one.

    Raises:
        ValueError: CUDA_VISIBLE_DEVICES names fewer GPUs than there are ranks.
    """

    def __init__(self, count: int, ports: Sequence[int] = ()) -> None:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._gpus = [str(gpu) for gpu in range(count)] if named is None else _listed(named)
        if len(self._gpus) < count:
            raise ValueError(
                f"{count} ranks need {count} GPUs, but CUDA_VISIBLE_DEVICES names "
                f"{len(self._gpus)}."
            )
        self._count, self._port = count, ports[0] if ports else free_port()

    def environment(self, rank: int) -> dict[str, str]:
        """What a process needs to become this rank."""
        return {
            "MLX_RANK": str(rank),
            "MLX_WORLD_SIZE": str(self._count),
            "NCCL_HOST_IP": "127.0.0.1",
            "NCCL_PORT": str(self._port),
            "CUDA_VISIBLE_DEVICES": self._gpus[rank],
        }

    def close(self) -> None:
        """Nothing is kept."""


def _listed(named: str) -> list[str]:
    return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
