"""`llm-spec releases A.json B.json … [-o docs/releases.md]`: sweeps with several releases."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "releases", help="what each release of mlx-lm broke and mended, from saved sweeps"
    )
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="A.json")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="put it between the markers of a page"
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the tables; 2 and one sentence when the input is no good."""
    from llm_spec.ledger.results import write_atomically
    from llm_spec.report.load import ResultsError, load_results
    from llm_spec.report.releases import as_markdown, within_markers

    try:
        written = as_markdown(load_results(path) for path in args.sweeps)
        if args.output is not None:
            page = args.output.read_text(encoding="utf-8")
            write_atomically(args.output, within_markers(page, written))
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"{args.output} cannot be written: {why}.", file=sys.stderr)
        return 2
    if args.output is None:
        print(written)
    return 0
