"""`llm-spec choose RESULTS.json…`: candidates side by side, one recommended by a rule."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_spec.quality.selection import (
    REPLY_TOKENS,
    WITHIN_S,
    Candidate,
    Refused,
    candidates_in,
    choose,
    devices_of,
    within_memory,
)


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "choose", help="put assistants side by side and recommend one by a stated rule"
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json")
    parser.add_argument(
        "--memory", metavar="SIZE",
        help="memory that a model may use, such as 24GB (default: every model that ran fits)",
    )  # fmt: skip
    parser.add_argument(
        "--within", type=_positive, default=WITHIN_S, metavar="SECONDS",
        help="how long a reply may take (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--tokens", type=_positive, default=REPLY_TOKENS, metavar="N",
        help="how many tokens a reply has (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the comparison: 0 with a recommendation, 1 without one, 2 if nothing is comparable."""
    from rich.console import Console

    from llm_spec.numerics.units import BadAmount, parse_bytes
    from llm_spec.text.untrusted import visible

    tokens = max(1, round(args.tokens))
    try:
        candidates = candidates_in(args.results, tokens)
        devices = devices_of(args.results)
        if args.memory is not None:
            budget = parse_bytes(args.memory, "--memory", 1e6, 1e13)
            candidates = within_memory(candidates, budget)
    except (Refused, BadAmount) as refused:
        print(visible(str(refused)), file=sys.stderr)
        return 2
    choice = choose(candidates, args.within, tokens)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_table(candidates, tokens))
    if len(devices) > 1:
        names = ", ".join(visible(device) for device in devices)
        console.print(f"Times were taken on different devices ({names}): only the jobs compare.")
    console.print(f"\nRule: {choice.rule}")
    console.print(f"Recommended: {visible(choice.recommended or 'none')}")
    for reason in choice.reasons:
        console.print(f"  {visible(reason)}")
    return 0 if choice.recommended else 1


def _table(candidates: Sequence[Candidate], tokens: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    from llm_spec.numerics.units import show_bytes
    from llm_spec.text.untrusted import visible

    table = Table("candidate", "jobs done", "fits", f"{tokens} tokens in", "tok/s", "peak memory")
    for each in sorted(candidates, key=lambda each: (each.control, -each.rate)):
        cells = (
            each.name + (" (control)" if each.control else ""),
            each.jobs,
            "-" if each.control else ("yes" if each.fits else "no"),
            "-" if each.reply_s is None else f"{each.reply_s:.1f} s",
            "-" if each.tokens_per_s is None else f"{each.tokens_per_s:.1f}",
            "-" if each.peak_bytes is None else show_bytes(each.peak_bytes),
        )
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number
