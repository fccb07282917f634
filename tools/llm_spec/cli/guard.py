"""`llm-spec guard`: has this machine become slower than it was, beyond its noise?

pytest specs/benchmarks --benchmark-only --benchmark-json=now.json
llm-spec guard now.json specs/benchmarks/baselines.json
"""

import argparse
import json
import sys
from pathlib import Path

from llm_spec.performance.regression import BadFile, judge, read_json, shares


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `guard` to the command line."""
    parser = subparsers.add_parser(
        "guard",
        help="compare benchmarks with a baseline and fail on a slow-down",
        description="Compares the shares of pytest-benchmark's JSON with the baseline of the same "
        "class of device: exit code 1 where one is slower by more than the noise explains.",
    )
    parser.add_argument("benchmarks", type=Path, help="JSON of pytest --benchmark-json")
    parser.add_argument("baselines", type=Path, help="JSON with a baseline per device class")
    parser.add_argument("--update", action="store_true", help="make these benchmarks the baseline")


def run(args: argparse.Namespace) -> int:
    """Print a line a benchmark; 1 where one is slower, 2 where nothing can be compared."""
    try:
        device, now = shares(args.benchmarks)
        baselines = read_json(args.baselines) if args.baselines.exists() else {}
        if args.update:
            text = json.dumps(baselines | {device: now}, indent=1, sort_keys=True)
            args.baselines.write_text(text + "\n", encoding="utf-8")
            return 0
        if device not in baselines:
            known = ", ".join(baselines) or "none"
            raise BadFile(
                f"There is no baseline for {device!r}; --update makes one (known: {known})."
            )
        before = {name: [float(v) for v in values] for name, values in baselines[device].items()}
    except (BadFile, TypeError, ValueError, AttributeError) as error:
        print(error, file=sys.stderr)
        return 2
    judged = {name: judge(before[name], now[name]) for name in now if name in before}
    for name, judgement in judged.items():
        print(f"{name}: {judgement}")
    for name in sorted(now.keys() ^ before.keys()):
        print(f"{name}: only in {'the baseline' if name in before else 'these benchmarks'}")
    return int(any(judgement.finding == "slower" for judgement in judged.values()))
