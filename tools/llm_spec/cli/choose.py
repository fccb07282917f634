"""`llm-spec choose`: assistants side by side, one recommended by a stated rule.

llm-spec choose --measure                                 # all that are on this disk and fit
llm-spec choose --measure smollm2-135m path/to/model --jobs mine.toml --replies
llm-spec choose choice/*.json                             # of what was measured before
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_spec.cli import candidates as measuring
from llm_spec.quality.selection import (
    REPLY_TOKENS,
    WITHIN_S,
    Refused,
    candidates_in,
    choose,
    devices_of,
    within_memory,
)

FOLDER = Path("choice")
CONTEXT = 2048  # tokens that a candidate must have room for


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "choose", help="measure assistants on this disk, put them side by side, recommend one"
    )
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULTS.json")
    parser.add_argument(
        "--measure", nargs="*", metavar="MODEL",
        help="measure these models first, or all assistants on this disk that fit; nothing is "
        "downloaded, and what was measured before is not measured again",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=Path, metavar="FILE", help="jobs and criteria of your own, as TOML"
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where results are kept (default: %(default)s)"
    )
    parser.add_argument(
        "--replies", action="store_true", help="print each model's first reply to each job"
    )
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
    """Print the comparison: 0 with a recommendation, 1 without one, 2 if nothing is comparable,
    130 after Ctrl-C."""
    from llm_spec.cli import cards
    from llm_spec.numerics.units import BadAmount, parse_bytes
    from llm_spec.performance.others import MANY
    from llm_spec.text.untrusted import visible

    tokens = max(1, round(args.tokens))
    try:
        budget = None
        if args.memory is not None:
            budget = parse_bytes(args.memory, "--memory", 1e6, 1e13)
        paths = [*args.results]
        if args.measure is not None:
            paths += _measured(args, budget)
            if not paths:
                raise Refused("No model could be measured.")
        if not paths:
            raise Refused("Name results files, or measure: llm-spec choose --measure.")
        candidates, devices = candidates_in(paths, tokens), devices_of(paths)
        if budget is not None:
            candidates = within_memory(candidates, budget)
    except measuring.Stopped:
        again = "run the same command again, and it goes on"
        print(f"Interrupted: what is measured is kept in {args.folder}; {again}.", file=sys.stderr)
        return 130
    except (Refused, BadAmount) as refused:
        print(visible(str(refused)), file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename or args.folder} cannot be used: {error.strerror}."
        print(visible(where), file=sys.stderr)
        return 2
    choice = choose(candidates, args.within, tokens)
    cards.show(candidates, tokens, replies=args.replies)
    if len(devices) > 1:
        names = ", ".join(visible(device) for device in devices)
        print(f"Times were taken on different devices ({names}): only the jobs compare.")
    for each in candidates:
        if each.other_programs is not None and each.other_programs >= MANY:
            print(
                f"{visible(each.name)}: other programs used {each.other_programs:.0%} of the "
                "processor while it answered, so its times are too long. Close them, delete "
                f"its file in {args.folder} and measure it again."
            )
    print(f"\nRule: {choice.rule}")
    print(f"Recommended: {visible(choice.recommended or 'none')}")
    for reason in choice.reasons:
        print(f"  {visible(reason)}")
    return 0 if choice.recommended else 1


def _measured(args: argparse.Namespace, budget: int | None) -> Sequence[Path]:
    """The results files of the short list. Raises Refused where there is nothing to measure."""
    from llm_spec.quality import on_disk
    from llm_spec.quality.own_jobs import BadJobs

    if not measuring.SPECS.exists():
        raise Refused(f"{measuring.SPECS} is not here: run this in a checkout of llm-spec.")
    try:
        models = on_disk.named(args.measure) if args.measure else on_disk.assistants()
    except ValueError as error:
        raise Refused(str(error)) from None
    fitting = [model for model in models if _fits(model.path, budget)]
    for model in models:
        _tell(f"{model.name}: {'on the short list' if model in fitting else 'does not fit'}")
    if not fitting:
        raise Refused("No assistant on this disk fits: `llm-spec fit` says which models would.")
    try:
        return measuring.measure(fitting, args.folder, args.jobs, _tell)
    except BadJobs as error:
        raise Refused(f"--jobs: {error}") from None


def _fits(path: Path, budget: int | None) -> bool:
    """Whether `llm-spec fit` says so of a directory; a GGUF file is tried."""
    if not path.is_dir():
        return True
    from llm_spec.cli import plan_directory
    from llm_spec.directory import BadModel
    from llm_spec.performance.budget import MACHINE
    from llm_spec.performance.budget import budget as of_this_machine
    from llm_spec.performance.plan import Machine

    room, about = (budget, "as given") if budget is not None else of_this_machine()
    machine = Machine(room, None, about, fused=about != MACHINE)
    try:
        variants, _ = plan_directory.planned(path, [], machine.fused, CONTEXT)
    except BadModel:
        return True  # why it cannot be used is told by the run that tries
    fits = [variant.fits(machine, min(CONTEXT, variant.course.limit)) for variant in variants]
    return any(fits) or not fits


def _tell(line: str) -> None:
    from llm_spec.text.untrusted import visible

    print(visible(line), file=sys.stderr, flush=True)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number
