"""`llm-spec guard`: has this machine become slower than it was, beyond its noise?

pytest specs/benchmarks --benchmark-only --benchmark-json=now.json
llm-spec guard now.json specs/benchmarks/baselines.json
"""

import argparse
import json
import sys
from pathlib import Path

from llm_spec.ledger.results import write_atomically
from llm_spec.performance.regression import BadFile, baselines, judge, shares
from llm_spec.text.untrusted import visible


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
    """Print a line per benchmark; 1 where one is slower, 2 where nothing can be compared."""
    try:
        device, now = shares(args.benchmarks)
        known = baselines(args.baselines)
        if args.update:
            text = json.dumps(known | {device: now}, indent=1, sort_keys=True)
            write_atomically(args.baselines, text + "\n")
            return 0
        if device not in known:
            there = ", ".join(known) or "none"
            raise BadFile(
                f"There is no baseline for {device!r}; --update makes one (known: {there})."
            )
    except BadFile as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.baselines} was not written: {error.strerror}.", file=sys.stderr)
        return 2
    before = known[device]
    judged = {name: judge(before[name], now[name]) for name in now if name in before}
    for name, judgement in judged.items():
        print(f"{visible(name)}: {judgement}")
    for name in sorted(now.keys() ^ before.keys()):
        where = "the baseline" if name in before else "these benchmarks"
        print(f"{visible(name)}: only in {where}")
    return int(any(judgement.finding == "slower" for judgement in judged.values()))
