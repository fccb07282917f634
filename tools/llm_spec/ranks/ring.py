"""What the processes of one ring must know of each other: a port of loopback for each rank."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack


class Ring:
    """Ports for so many ranks, in the file that MLX reads. The file goes with `close`.

    Args:
        ports: one per rank; by default free ones, for two runs on the same ports would join each
            other's ring without a word.
    """

    def __init__(self, count: int, ports: Sequence[int] = ()) -> None:
        self.ports = list(ports) or free_ports(count)
        self._hosts = tempfile.NamedTemporaryFile("w", suffix=".json")  # noqa: SIM115  # see close
        json.dump([[f"127.0.0.1:{port}"] for port in self.ports], self._hosts)
        self._hosts.flush()

    def environment(self, rank: int) -> dict[str, str]:
        """What a process needs to become this rank."""
        return {"MLX_RANK": str(rank), "MLX_HOSTFILE": self._hosts.name}

    def close(self) -> None:
        self._hosts.close()


def free_port() -> int:
    """A port of loopback on which nobody listened a moment ago."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many of them, each another."""
    with ExitStack() as bound:
        probes = [bound.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def is_taken(port: int) -> bool:
    """Whether somebody listens on this port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
