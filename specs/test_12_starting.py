"""Experiment 12: one model on many ranks: how the ranks are started, and how they end.

The ranks are processes on this machine, in a ring of MLX's. A fault is a rank that does wrong
(`fixtures.doubles.faulty_rank`); the last rank has it.
"""

import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from fixtures.doubles import parent_of_ranks
from llm_spec.ranks import Nccl, Ranks, RanksFailed, group, nccl

RANKS, FEW = 2, 3.0
LONGEST = 10.0  # seconds until a failure is told
ADDED = 1 + 2  # by rank 0 and rank 1


def program(fault):
    return (sys.executable, "-m", "fixtures.doubles.faulty_rank", fault)


def told(fault, **options):
    """What is said of ranks with a fault, and after how many seconds from the moment when all of
    them were there, or from the start where they never are."""
    start = time.monotonic()
    try:
        with Ranks(program(fault), RANKS, **options) as ranks:
            start = time.monotonic()
            return str([each["sum"] for each in ranks.ask({"number": 1}, seconds=FEW)]), start
    except RanksFailed as failure:
        return str(failure), start


def hold(exhibit, cases):
    """Each fault, the options under which it shows and the start of its sentence: right, soon, and
    no process left."""
    rows, wrong = [], []
    for fault, options, right in cases:
        said, start = told(fault, **options)
        seconds = time.monotonic() - start
        left = [it.pid for it in psutil.Process().children() if "faulty_rank" in str(it.cmdline())]
        if not said.startswith(right) or seconds > LONGEST or left:
            wrong.append(said)
        rows.append([f"a rank {fault}", said, seconds, len(left)])
    exhibit.table(
        rows, columns=["fault", "sentence", "seconds", "processes left"], title="ranks that fail"
    )
    says = exhibit.measured("failures told otherwise", wrong, should_be=[])
    assert not wrong, says


def blame_the_first_rank(monkeypatch):
    monkeypatch.setattr(group, "cause", lambda failures: "Rank 0 ended")


@pytest.mark.claim(id="12.1", falsifier=blame_the_first_rank)
def test_a_dead_rank_is_named_with_its_cause(exhibit):
    """Sound ranks first: each of them adds both numbers up. Then one is killed while the other
    waits for its number, and one finds its port in use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            other = free.getsockname()[1]
        ports = {"ports": (other, port)}
        hold(exhibit, [
            ("is sound", {}, str([ADDED] * RANKS)),
            ("is killed", {}, "Rank 1 was killed by signal 9"),
            ("finds its port in use", ports, f"Port {port} of rank 1 is in use"),
        ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="12.2", falsifier=blame_the_first_rank)
def test_whatever_stops_a_rank_is_told_with_the_rank(exhibit):
    """What may go wrong on one rank, at the start and in a pass. Of ranks that wait for each other
    nobody can say who is late: both are named."""
    hold(exhibit, [
        ("exits", {}, "Rank 1 ended with exit code 3"),
        ("raises", {}, "Rank 1 raised ValueError: 7 heads cannot be shared"),
        ("hangs", {}, "Ranks 0, 1 did not answer in 3 s"),
        ("does not start", {"seconds": 8}, "Rank 1 did not start in 8 s"),
        ("does not join", {"seconds": 8}, "Ranks 0, 1 did not join in 8 s"),
        ("has another MLX", {}, "Rank 1 has mlx 0.1.0, but rank 0 mlx"),
        ("is sound", {"backend": "none"}, "Rank 0 raised RuntimeError: this MLX has no backend"),
    ])  # fmt: skip


ENDS = [  # what the parent waits for, the fault for which it waits in vain, its signal
    ("answer", "hangs", signal.SIGKILL),
    ("join", "does not join", signal.SIGKILL),
    ("answer", "hangs", signal.SIGTERM),
    ("answer", "hangs", signal.SIGINT),
]
BESIDES: list[str] = []


def let_them_go(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BESIDES", [parent_of_ranks.LETS_GO])


@pytest.mark.slow
@pytest.mark.claim(id="12.3", falsifier=let_them_go)
def test_ranks_end_with_their_parent(exhibit):
    """The parent gets a signal while one rank waits for the other, in MLX."""
    module, rows = "fixtures.doubles.parent_of_ranks", []
    for moment, fault, way in ENDS:
        with subprocess.Popen(
            (sys.executable, "-m", module, fault, *BESIDES),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as parent:  # fmt: skip
            assert parent.stdout is not None
            asked = next(line.split() for line in parent.stdout if line.startswith(moment))
            ranks = [psutil.Process(int(pid)) for pid in asked[1:]]
            assert len(ranks) == RANKS, f"{len(ranks)} ranks started, but should be {RANKS}"
            time.sleep(0.5)  # MLX waits by now
            parent.send_signal(way)
        _, left = psutil.wait_procs(ranks, timeout=FEW)
        for rank in left:
            rank.kill()
        rows.append([moment, way.name, len(left)])
        if left:
            break
    columns = ["waits for them to", "signal", "ranks left"]
    exhibit.table(rows, columns=columns, title=f"{FEW:g} s after the signal")
    most = max(left for *_, left in rows)
    says = exhibit.measured("most ranks left", most, should_be=0)
    assert most == 0, says


def give_every_rank_the_first_gpu(monkeypatch):
    monkeypatch.setattr(nccl, "_listed", lambda named: [named.split(",")[0]] * RANKS)


@pytest.mark.claim(id="12.12", falsifier=give_every_rank_the_first_gpu)
def test_each_rank_that_meets_through_nccl_has_a_gpu_of_its_own(exhibit, monkeypatch):
    """What each rank's environment says where GPUs 3 and 5 alone may be used. MLX computes on the
    first GPU that its process sees."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    place = Nccl(RANKS)
    given = [place.environment(rank) for rank in range(RANKS)]
    rows = [[each["MLX_RANK"], each["CUDA_VISIBLE_DEVICES"], each["NCCL_PORT"]] for each in given]
    exhibit.table(rows, columns=["rank", "GPUs that it sees", "port"], title="ranks through NCCL")
    found = [row[1] for row in rows]
    says = exhibit.measured("GPUs of the ranks", found, should_be=["3", "5"])

    assert len({row[2] for row in rows}) == 1, f"the ranks meet on different ports: {rows}"
    with pytest.raises(ValueError, match="3 ranks need 3 GPUs"):
        Nccl(RANKS + 1)
    assert found == ["3", "5"], says
