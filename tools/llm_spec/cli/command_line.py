"""`llm-spec SUBCOMMAND …`, also as `python -m llm_spec`."""

import argparse
import importlib
import sys

SUBCOMMANDS = ("report", "compare", "fit", "measure", "guard", "choose", "look", "releases")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2 where the command line was wrong, 130 after
    Ctrl-C."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _run(argv: list[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="llm-spec")
    subparsers = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    # A subcommand does not wait for what the others import.
    for name in argv[:1] if argv and argv[0] in SUBCOMMANDS else SUBCOMMANDS:
        module = importlib.import_module(f"llm_spec.cli.{name}")
        known = set(subparsers.choices)
        module.add_parser(subparsers)
        for added in subparsers.choices.keys() - known:
            subparsers.choices[added].set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return int(args.run(args))
