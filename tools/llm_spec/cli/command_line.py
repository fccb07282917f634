"""`llm-spec SUBCOMMAND …`, also as `python -m llm_spec`."""

import argparse
import errno
import importlib
import os
import signal
import sys
import threading

SUBCOMMANDS = ("report", "compare", "fit", "measure", "guard", "choose", "look", "releases")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2 where the command line was wrong or nothing
    more can be written, 130 after Ctrl-C, 141 where nobody reads what is printed any more (1 where
    rich prints it)."""
    before, sys.unraisablehook = sys.unraisablehook, _dropped
    try:
        code = _run(argv)
        print(end="", flush=True)
        return code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # Python would write what is left as it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # `| head`
            return 141
        print(f"The output cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    finally:
        sys.unraisablehook = before


def _dropped(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python drops an interrupt that comes in a finaliser: it comes again a moment later."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    main_thread = threading.main_thread().ident
    threading.Timer(0.05, signal.pthread_kill, (main_thread, signal.SIGINT)).start()


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
