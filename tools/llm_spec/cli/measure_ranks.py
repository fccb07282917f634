"""`llm-spec measure --ranks`: a published model on one and on many ranks, on random weights."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from llm_spec.ledger.results import write_atomically
from llm_spec.model import declare
from llm_spec.numerics.units import BadAmount, parse_numbers, show_bytes
from llm_spec.performance import rank_costs
from llm_spec.performance.rank_costs import Decoding
from llm_spec.ranks import MOST, Ranks, RanksFailed

PROGRAM = (sys.executable, "-P", "-m", "llm_spec.performance.on_ranks")
SECONDS = 3600.0  # that one model may take
MOST_ROWS = 1024  # decoded at once
SCHEMA = 1
Answers = list[dict[str, Any]]
GRAPHS = "MLX_USE_CUDA_GRAPHS"
ADVICE = f"Reductions take longer within CUDA graphs: try {GRAPHS}=0, too (docs/measured.md)."


def run(args: argparse.Namespace, widths: list[int], contexts: list[int]) -> int:
    """Measure each model on each number of ranks, print a line per context and compare; 1 where a
    rank failed. Raises BadAmount."""
    counts = parse_numbers(args.ranks, "--ranks", range(1, MOST + 1))
    if not 0 <= args.batch <= MOST_ROWS:
        raise BadAmount(f"--batch should be 0 to {MOST_ROWS:,}, not {args.batch}.")
    backend = args.backend or "ring"
    rows, failed = [], False
    for name in args.models:
        for width in widths:
            asked = {
                "config": declare.published()[name].config, "bits": None if width == 16 else width,
                "contexts": contexts, "generate": args.generate, "rounds": args.rounds,
                "batch": args.batch,
            }  # fmt: skip
            measured: dict[int, Answers] = {}
            for count in counts:
                where = f"{name} at {width} bits on {count} rank{'s' * (count > 1)}"
                try:
                    measured[count] = _measured(count, backend, asked)
                except (RanksFailed, ValueError) as error:
                    print(f"{where}: {error}", file=sys.stderr, flush=True)
                    failed = True
                    continue
                print("\n".join(lines(where, measured[count])), flush=True)
                rows.append({
                    "model": name, "bits": width, "backend": backend, "ranks": count,
                    "generated": args.generate, "batch": args.batch, "answers": measured[count],
                })  # fmt: skip
            for sentence in comparisons(measured, contexts):
                print(sentence, flush=True)
    if backend == "nccl" and max(counts) > 1 and os.environ.get(GRAPHS) != "0":
        print(ADVICE)
    if args.output:
        document = {"schema": SCHEMA, "measurements_on_ranks": rows}
        try:
            write_atomically(args.output, json.dumps(document, indent=1) + "\n")
        except OSError as error:
            print(f"{args.output} was not written: {error.strerror}.", file=sys.stderr)
            return 2
    return int(failed)


def read(file: Path) -> list[Answers]:
    """The answers of all ranks, per number of ranks, that `run` wrote to `file`."""
    rows = json.loads(file.read_text(encoding="utf-8"))["measurements_on_ranks"]
    return [row["answers"] for row in rows]


def _measured(count: int, backend: str, asked: Mapping[str, Any]) -> Answers:
    with Ranks(PROGRAM, count, backend) as ranks:
        return ranks.ask(asked, SECONDS)


def lines(where: str, answers: Answers) -> Iterator[str]:
    """What is told of one model on some ranks: a line per context, and what else was seen."""
    for index, row in enumerate(answers[0]["rows"]):
        seen = rank_costs.seen_at(answers, index)
        yield (
            f"{where}, {row['context']} tokens: {seen.decode.median:.1f} tok/s "
            f"({_percent(seen.share)} of the ceiling of {_devices(seen)}), prefill "
            f"{seen.prefill.median:.0f} tok/s; per rank {show_bytes(seen.weights)} of weights"
            f"{_peak(answers, index)}{_reductions(seen)}"
        )
        if slower := rank_costs.slowed(seen):
            before, after = (_slowest(answers, f"reduction_seconds{it}") for it in ("", "_after"))
            then = f" A reduction took {before} before that and {after} after." if before else ""
            yield f"{where}, {row['context']} tokens: {slower}{then}"
    if answers[0]["batch"]:
        rate = min(each["batch"] for each in answers)
        yield f"{where}, rows decoded at once: {rate:.0f} tok/s in all"


def comparisons(measured: Mapping[int, Answers], contexts: list[int]) -> Iterator[str]:
    """The fewest ranks that were measured against all others: a sentence each."""
    if not measured:
        return
    fewest, *more = sorted(measured)
    for count in more:
        for index, context in enumerate(contexts):
            one, many = (rank_costs.seen_at(measured[it], index) for it in (fewest, count))
            yield f"After {context} tokens, {rank_costs.compared(one, many)}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "under 1%"


def _devices(seen: Decoding) -> str:
    return "one rank's memory" if seen.ranks == 1 else f"{seen.ranks} ranks' memory"


def _peak(answers: Answers, index: int) -> str:
    taken = [each["rows"][index]["memory"] for each in answers]
    return f", peak {show_bytes(max(it['peak'] for it in taken))}" if all(taken) else ""


def _reductions(seen: Decoding) -> str:
    if not seen.reductions:
        return ""
    each, all_of_them = rank_costs.shown(seen.reduction), rank_costs.shown(seen.reducing)
    return f"; {seen.reductions} reductions per token of {each}, {all_of_them} in all"


def _slowest(answers: Answers, name: str) -> str | None:
    seconds = [median(each[name]) for each in answers if each[name]]
    return rank_costs.shown(max(seconds)) if seconds else None
