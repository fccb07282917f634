"""`llm-spec report RESULTS.json -o report.html`."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser("report", help="draw saved results as one HTML file")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="PATH")


def run(args: argparse.Namespace) -> int:
    """Write the report; 2 and one sentence when the results or the path are no good."""
    from llm_spec.numerics.units import show_bytes
    from llm_spec.report.destination import BadDestination, check_destination
    from llm_spec.report.load import ResultsError, load_results
    from llm_spec.report.page import write_report

    try:
        check_destination(args.output, "-o", (".html",))
        if args.output.exists() and args.results.exists() and args.output.samefile(args.results):
            raise BadDestination(f"{args.output} holds the results themselves: name another file.")
        results = load_results(args.results)
        write_report(results, args.output)
    except (ResultsError, BadDestination) as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        print(f"A report needs {missing.name}: pip install -e '.[report]'.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.output} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    partial = " (partial: the run was interrupted)" if results["environment"].get("partial") else ""
    print(f"{args.output}: {show_bytes(args.output.stat().st_size)}{partial}")
    return 0
