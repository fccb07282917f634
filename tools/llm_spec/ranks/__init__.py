"""One model on many ranks: processes that share its work through MLX's collectives.

    with Ranks([sys.executable, "-m", "my.rank"], count=2) as ranks:
        first, second = ranks.ask({"prompt": [1, 2, 3]})

The program calls `llm_spec.ranks.member.serve`. This side imports no MLX.
"""

from llm_spec.ranks.group import Ranks, RanksFailed
from llm_spec.ranks.nccl import Nccl
from llm_spec.ranks.ring import Ring, free_port, free_ports

MOST = 64
"""Processes of one machine."""

__all__ = ["MOST", "Nccl", "Ranks", "RanksFailed", "Ring", "free_port", "free_ports"]
