"""`llm-spec compare A.json B.json [-o compare.html]`: what changed between two runs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from llm_spec.report.comparison import compare, other_texts


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser("compare", help="what changed between two saved results")
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="also as HTML")
    parser.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="X=Y",
        help="hold model X of A against model Y of B (repeatable)",
    )


def _short_names(before: Path, after: Path) -> tuple[str, str]:
    """For a page that is sent on: no more of the path than tells the two apart."""
    if before.name != after.name:
        return before.name, after.name
    return str(before), str(after)


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 2 and one sentence when the input is no good."""
    from rich.console import Console

    from llm_spec.report.comparison_page import as_text, write_comparison
    from llm_spec.report.destination import BadDestination, check_destination
    from llm_spec.report.load import ResultsError, load_results

    pairs = dict(pair.split("=", 1) for pair in args.pair if "=" in pair)
    if len(pairs) != len(args.pair):
        print("--pair wants X=Y, a model of A and a model of B.", file=sys.stderr)
        return 2
    names = (str(args.before), str(args.after))
    try:
        if args.output:
            check_destination(args.output, "-o", (".html",))
        before, after = load_results(args.before), load_results(args.after)
        if problem := other_texts(before, after):
            raise ResultsError(problem)
        for file, document, names_given in (
            (args.before, before, set(pairs)), (args.after, after, set(pairs.values()))
        ):  # fmt: skip
            if missing := names_given - {claim["subject"] for claim in document["claims"]}:
                raise ResultsError(f"--pair: {file} holds no model {min(missing)!r}.")
        comparison = compare(before, after, pairs)
        if args.output:
            write_comparison(comparison, _short_names(args.before, args.after), args.output)
    except (ResultsError, BadDestination) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.output} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    Console(highlight=False, emoji=False, markup=False).print(as_text(comparison, names))
    return 0
