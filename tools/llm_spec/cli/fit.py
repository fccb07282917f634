"""`llm-spec fit`: which models and contexts fit a machine, and how fast they can be.

llm-spec fit
llm-spec fit --chip "M3 Pro" --memory 36GB --speed 20 --context 8k
llm-spec fit --memory 24GB --bandwidth 120GB/s --model path/to/model --bits 4,6
llm-spec fit --chip "M3 Pro" --memory 36GB --ranks 2
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm_spec.cli import fit_advice
from llm_spec.numerics.units import BadAmount, parse_bytes, parse_numbers, show_bytes
from llm_spec.performance import published
from llm_spec.performance.plan import Machine, Variant
from llm_spec.text.untrusted import visible

if TYPE_CHECKING:
    from rich.table import Table

GIB = 2**30
CONTEXTS = (2048, 8192, 32_768)
WIDEST = 10_000  # columns that a table may have
LEFT = 4e9  # bytes of a planned Mac for other programs; macOS mostly keeps more from its GPU
MOST_RANKS = 64
SENT = (
    "Memory, cache and speed are those of one rank. What ranks send each other is left out: "
    "`llm-spec measure MODEL --ranks 1,2` tells what that costs."
)


class Asked(NamedTuple):
    """What a plan is made for: widths in bits, whether attention is fused, the longest context that
    is followed, and the machines that share each model."""

    widths: list[int]
    fused: bool
    longest: int
    ranks: int


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `fit` to the command line."""
    parser = subparsers.add_parser(
        "fit",
        help="say which models and contexts fit a machine, and how fast they can be",
        description="Which models, bit widths and contexts fit, and the tokens per second that "
        "memory bandwidth allows at most. Without options: this machine.",
    )
    parser.add_argument(
        "--memory", help="RAM to plan for, e.g. 36GB (a Mac, unless --chip differs)"
    )
    parser.add_argument("--bandwidth", help="memory bandwidth to plan for, e.g. 150GB/s")
    parser.add_argument("--chip", help='take the published bandwidth of a chip, e.g. "M3 Pro"')
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="a published model by name, or a model directory, to plan for instead of all "
        "published models; may be repeated",
    )
    parser.add_argument(
        "--leave", help="memory to leave for other programs, e.g. 8GB (default: 4GB of a Mac's)"
    )
    parser.add_argument(
        "--speed", type=float, default=10.0, help="tokens per second to want (default 10)"
    )
    parser.add_argument(
        "--share",
        type=float,
        default=60.0,
        help="per cent of a ceiling to reckon with (default 60; `llm-spec measure` says a "
        "machine's own)",
    )
    parser.add_argument("--bits", default="16,8,4", help="widths to plan for (default 16,8,4)")
    parser.add_argument(
        "--context",
        default=",".join(map(str, CONTEXTS)),
        help="contexts to plan for, in tokens (default %(default)s); the longest that fits is "
        "reckoned from there",
    )
    parser.add_argument(
        "--ranks",
        type=int,
        default=1,
        metavar="N",
        help="plan for models that N such machines share, their matrices split by mlx-lm "
        "(default 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan; 2 and one sentence where the question makes no sense."""
    # Imported here: the other subcommands should not wait for MLX, nor this one for mlx-lm where
    # the published models are planned for.
    from rich.console import Console

    from llm_spec.directory import BadModel
    from llm_spec.model.config import BadConfig
    from llm_spec.performance.chips import UnknownChip

    try:
        widths = parse_numbers(args.bits, "--bits", published.WIDTHS)
        if not (0 < args.share <= 100 and 0 < args.speed < 1e6):
            raise BadAmount("--share should be a per cent and --speed tokens per second.")
        if not 1 <= args.ranks <= MOST_RANKS:
            raise BadAmount(f"--ranks should be 1 to {MOST_RANKS}, not {args.ranks}.")
        contexts = parse_numbers(args.context, "--context", range(1, 2**20 + 1))
        machine = _machine(args)
        asked = Asked(widths, machine.fused, max(contexts), args.ranks)
        found, refused = _variants(args.model, asked)
    except (BadAmount, UnknownChip, BadConfig, BadModel) as error:
        print(error, file=sys.stderr)
        return 2
    console, table = Console(), _table(machine, found, contexts)
    each = f" on each of {args.ranks} machines" if args.ranks > 1 else ""
    budget = f"{show_bytes(machine.budget)} for the model{each}: {machine.about}."
    console.print(budget, highlight=False)
    # No column is cut: a terminal that is too narrow for the table wraps its lines.
    whole = Console(width=WIDEST).measure(table).maximum
    Console(width=max(console.width, whole)).print(table)
    sentences = fit_advice.conclusions(machine, found, contexts[0])
    sentences += fit_advice.advice(machine, found, contexts[0], args.speed, args.share)
    if args.ranks > 1:
        sentences += [SENT, *(f"Not shared: {sentence}." for sentence in refused)]
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    return 0


def _machine(args: argparse.Namespace) -> Machine:
    from llm_spec.performance import chips

    leave = parse_bytes(args.leave, "--leave", 0, 1e13) if args.leave is not None else None
    if args.chip is not None and args.memory is None:
        raise BadAmount("--chip plans for another machine: say its --memory too.")
    bandwidth, source = None, "its bandwidth is not known, so its speed is not either"
    chip = None
    if args.bandwidth is not None:
        bandwidth = float(parse_bytes(args.bandwidth, "--bandwidth", 1e9, 1e14, "/s"))
        source = f"{show_bytes(bandwidth)}/s as given"
    elif args.chip is not None:
        chip = chips.one_of(chips.named(args.chip))
        bandwidth, source = chip.bandwidth, f"{show_bytes(chip.bandwidth)}/s as published"
    if args.memory is not None:
        # RAM is sold in units of 2**30 bytes that are called GB.
        said = parse_bytes(args.memory, "--memory", 1e9, 1e13)
        ram = round(said / 1e9 * GIB) if "i" not in args.memory.lower() else said
        apple = chip is None or chip.name.startswith("Apple")
        whole = show_bytes(ram, binary=True) if apple else args.memory
        if apple:
            budget, part = chips.metal_limit(ram), "what macOS lets its GPU keep resident"
        else:
            budget, part = said, "all of its memory"
        kept = round(leave if leave is not None else LEFT if apple else 0)
        budget, part = _leaving(budget, part, (ram if apple else said) - kept, kept)
        left = show_bytes((ram if apple else said) - budget)
        about = f"{part}, of {whole}, which leaves {left} for other programs; {source}"
        return Machine(budget, bandwidth, about, fused=True)
    from llm_spec.performance.budget import MACHINE
    from llm_spec.performance.budget import budget as of_this_machine

    budget, part = of_this_machine()
    budget, part = _leaving(budget, part, budget - (leave or 0), leave or 0)
    if bandwidth is None:
        bandwidth, source = _bandwidth_here()
    fused = part != MACHINE
    return Machine(budget, bandwidth, f"{part}; {source}", fused)


def _leaving(budget: int, part: str, rest: int, kept: int) -> tuple[int, str]:
    """The budget, and its name, once no more than the `rest` is taken. Raises BadAmount where
    nothing is left."""
    if rest <= 0:
        raise BadAmount(f"--leave {show_bytes(kept)} leaves no memory for a model.")
    return (budget, part) if rest >= budget else (rest, f"all but {show_bytes(kept)}")


def _bandwidth_here() -> tuple[float, str]:
    from llm_spec.performance import bandwidth, chips

    measured = bandwidth.memory_bandwidth()
    source = f"{show_bytes(measured.best)}/s measured now"
    if (chip := chips.here()) is None:
        return measured.best, source + ", published: unknown"
    return chip.bandwidth, source + f", {show_bytes(chip.bandwidth)}/s published for {chip.name}"


def _variants(models: list[str], asked: Asked) -> tuple[list[Variant], list[str]]:
    """What was asked for of each model, and why ranks cannot share the others. Raises BadAmount
    where that leaves none."""
    found: list[Variant] = []
    refused: list[str] = []
    for model in models or published.rows():
        variants, why = _planned(model, asked)
        found += variants
        refused += [f"{visible(model)}: {why}"] if why else []
    if not found:
        raise BadAmount(f"{'; '.join(refused)}.")
    return found, refused


def _planned(model: str, asked: Asked) -> tuple[list[Variant], str]:
    """One model, and why ranks cannot share it, or not at each width."""
    if model in published.rows() and not os.path.isdir(model):
        if asked.ranks == 1:
            return published.variants(model, asked.widths, asked.fused, asked.longest), ""
        from llm_spec.model import declare  # mlx-lm, which takes a second
        from llm_spec.performance import shared_capacity

        config = declare.published()[model].config
        widths = [None if width == 16 else width for width in asked.widths]
        return shared_capacity.variants(
            model, config, widths, asked.ranks, asked.fused, asked.longest
        )
    if not model.strip():  # as a variable of a shell that is not set
        raise BadAmount("--model is given no name: write a directory, or a name after it.")
    if Path(model).name == model and not os.path.exists(model):
        known = ", ".join(published.rows())
        raise BadAmount(f"{model!r} is neither a directory nor a published model: {known}.")
    from llm_spec.cli import plan_directory  # psutil, which published models do not wait for

    return plan_directory.planned(
        Path(model), asked.widths, asked.fused, asked.longest, asked.ranks
    )


def _table(machine: Machine, found: list[Variant], contexts: list[int]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in ("weights", "bits", "stored"):
        table.add_column(column, justify="right", no_wrap=True)
    for context in contexts:
        table.add_column(f"tok/s\nat {context:,}", justify="right", no_wrap=True)
    table.add_column("longest\ncontext", justify="right", no_wrap=True)
    previous = None
    for variant in found:
        name = "" if variant.name == previous else variant.name
        previous = variant.name
        longest = variant.longest(machine)
        table.add_row(
            Text(visible(name)),
            f"{variant.parameters / 1e9:.2f} B" if name else "",
            variant.width,
            show_bytes(variant.weights),
            *(Text(_cell(machine, variant, c), _style(machine, variant, c)) for c in contexts),
            f"{longest:,}" if longest else "none",
        )
    return table


def _cell(machine: Machine, variant: Variant, context: int) -> str:
    if context > variant.course.limit:
        return "–"
    if not variant.fits(machine, context):
        return "–"
    ceiling = variant.ceiling(machine, context)
    if ceiling is None:
        return "fits"
    return f"≤ {ceiling:,.0f}" if ceiling >= 100 else f"≤ {ceiling:.3g}"


def _style(machine: Machine, variant: Variant, context: int) -> str:
    return "" if variant.fits(machine, context) else "dim"
