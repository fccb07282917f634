"""`python -m tools SUBCOMMAND …`: each subcommand is a module with `add_parser` and `run`."""

import argparse
import importlib
import importlib.util
import sys

SUBCOMMANDS = (
    "tools.report.cli",
    "tools.compare",
    "tools.fit",
    "tools.measure",
    "tools.guard",
    "tools.choose",
)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code; 2 where the command line was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools")
    subparsers = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    for name in SUBCOMMANDS:
        if importlib.util.find_spec(name) is None:
            continue
        module = importlib.import_module(name)
        known = set(subparsers.choices)
        module.add_parser(subparsers)
        for added in subparsers.choices.keys() - known:
            subparsers.choices[added].set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
