"""`llm-spec look`: what a model makes of a text: tokens, embeddings, attention, probabilities.

llm-spec look "Rust is a programming"
llm-spec look "I wrote it in Rust" --against "I scrubbed off the Rust" -o look.html
"""

import argparse
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

EMBEDDED = "smollm2-135m"
MOST = 500


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `look` to the command line."""
    parser = subparsers.add_parser(
        "look",
        help="show what a model makes of a text: tokens, embeddings, attention, probabilities",
        description="Runs a text through a model once and shows tokens, embeddings, attention, "
        "the logit lens, the most likely next tokens, and the text that the model generates.",
    )
    parser.add_argument("text", help="what the model reads, between quotes")
    parser.add_argument(
        "--model", default=EMBEDDED, metavar="X",
        help="a model directory, a hub repository as owner/name, or %(default)s (the default)",
    )  # fmt: skip
    parser.add_argument("--against", metavar="TEXT", help="a second text, to be shown beside it")
    parser.add_argument(
        "--tokens", type=int, default=50, metavar="N", help="tokens to generate (default 50)"
    )
    parser.add_argument(
        "--template", action=argparse.BooleanOptionalAction, default=False,
        help="put the text into the model's chat template (default: no)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.html", help="write a page, too")


def run(args: argparse.Namespace) -> int:
    """Print what is seen and write the page; 2 and one sentence where there is nothing to show,
    130 where it is interrupted."""
    gc.disable()  # what is imported and loaded stays: to search it for garbage takes 0.2 s
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("Interrupted: no page was written.", file=sys.stderr)
        return 130
    finally:
        gc.enable()


def _run(args: argparse.Namespace) -> int:
    problem = _problem(args)
    if problem:
        print(problem, file=sys.stderr)
        return 2

    from rich.console import Console
    from rich.text import Text

    from llm_spec.text.untrusted import visible

    console = Console(highlight=False, markup=False, emoji=False)
    loading = Text(f"Loading {visible(args.model, 80)}")
    with console.status(loading) as waiting:  # drawn on a terminal alone
        return _look(args, console, waiting)


def _look(args: argparse.Namespace, console: "Console", waiting: "Status") -> int:
    from llm_spec.numerics import blas

    blas.preload()  # before anything imports MLX
    from llm_spec.look.models import CannotLook, opened
    from llm_spec.look.observation import Look, look
    from llm_spec.look.terminal import apart, generated, reading
    from llm_spec.numerics.units import show_bytes
    from llm_spec.text.untrusted import visible

    texts = [args.text, *([] if args.against is None else [args.against])]
    looks: list[Look] = []
    try:
        with opened(args.model) as model:
            gc.enable()
            for note in model.notes:
                console.print(visible(note), style="yellow")

            def show(seen: Look) -> None:
                console.print(reading(model.name, seen))
                waiting.update(f"Generating up to {args.tokens} tokens")

            for text in texts:
                waiting.update("Reading the text")
                paged = args.output is not None
                looks.append(look(model, text, args.template, args.tokens, show, paged))
                console.print(generated(looks[-1]), end="\n\n")
    except CannotLook as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    if len(looks) == 2:
        console.print(apart(looks))
    if args.output is None:
        return 0
    try:
        from llm_spec.look.page import write_page

        write_page(model.name, looks, args.output)
    except ModuleNotFoundError as missing:
        print(f"A page needs {missing.name}: pip install -e '.[report]'.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.output} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    console.print(f"{args.output}: {show_bytes(args.output.stat().st_size)}")
    return 0


def _problem(args: argparse.Namespace) -> str | None:
    """What is wrong with the question, found before a model is loaded."""
    if not 0 <= args.tokens <= MOST:
        return f"--tokens {args.tokens} is out of range: it should be between 0 and {MOST}."
    if not args.text or args.against == "":
        return "The text is empty: write one between quotes."
    if args.output is None:
        return None
    from llm_spec.report.destination import BadDestination, check_destination

    try:
        check_destination(args.output, "-o", (".html",))
    except BadDestination as error:
        return str(error)
    return None
