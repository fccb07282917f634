"""`llm-spec measure`: speed and memory of published models here, without a download.

    llm-spec measure qwen3-8b llama-3.2-3b qwen3-14b -o measured.json
    llm-spec measure qwen3-8b --ranks 1,2 --backend nccl

The models are filled with random weights: neither speed nor memory depends on what they are.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_spec.numerics.units import BadAmount, parse_numbers, show_bytes

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from llm_spec.numerics.timing import Sample
    from llm_spec.performance.bandwidth import Device

SCHEMA = 1
DEFAULT = ("llama-3.2-3b", "qwen3-8b", "qwen3-14b")
WIDTHS = (16, 8, 6, 5, 4, 3, 2)
GENERATED, ROUNDS = range(2, 2**20 + 1), range(1, 1001)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `measure` to the command line."""
    parser = subparsers.add_parser(
        "measure",
        help="measure speed and memory of published models here, on random weights",
        description="Fills models with random weights and measures speed, memory and the share of "
        "the memory bandwidth that decoding reaches.",
    )
    parser.add_argument("models", nargs="*", default=DEFAULT, metavar="MODEL", help="by name")
    parser.add_argument("--bits", default="4", help="widths to pack to (default 4; 16: not packed)")
    parser.add_argument(
        "--context", default="128,2048", help="prompt lengths (default %(default)s)"
    )
    parser.add_argument("--generate", type=int, default=64, help="tokens to make (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="repeats (default 5)")
    parser.add_argument(
        "--ranks", metavar="N,M", help="share each model among N and among M processes, and compare"
    )
    parser.add_argument(
        "--backend", choices=("ring", "nccl", "mpi"),
        help="what --ranks meet through: nccl gives each a GPU of this machine, mpi is Open MPI "
        "(default ring)",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, default=0, help="with --ranks: decode so many rows at once, too"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON, too")


def run(args: argparse.Namespace) -> int:
    """Measure, print one line per model and context; 2 where the question makes no sense."""
    from llm_spec.numerics import blas

    blas.preload()  # before anything imports MLX
    from rich.console import Console
    from rich.progress import Progress

    from llm_spec.cli import measure_ranks
    from llm_spec.ledger.results import write_atomically
    from llm_spec.model.config import BadConfig
    from llm_spec.model.declare import published
    from llm_spec.performance import bandwidth
    from llm_spec.performance.others import OtherPrograms
    from llm_spec.report.destination import BadDestination, check_destination

    try:
        if args.output:
            check_destination(args.output, "-o", (".json",))
        unknown = [name for name in args.models if name not in published()]
        if unknown:
            raise BadAmount(f"{unknown[0]!r} is not one of {', '.join(published())}.")
        for option, asked, allowed in (
            ("--generate", args.generate, GENERATED), ("--rounds", args.rounds, ROUNDS)
        ):  # fmt: skip
            if asked not in allowed:
                within = f"{allowed[0]} to {allowed[-1]:,}"
                raise BadAmount(f"{option} should be {within}, not {asked}.")
        widths = parse_numbers(args.bits, "--bits", WIDTHS)
        contexts = parse_numbers(args.context, "--context", range(1, 2**20 + 1))
        if args.ranks is None and (args.batch or args.backend):
            raise BadAmount("--batch and --backend are about ranks: say --ranks, too.")
        others = OtherPrograms()
        if args.ranks is not None:
            return measure_ranks.run(args, widths, contexts)
        console = Console(stderr=True)
        with Progress(
            *_columns(), console=console, transient=True, redirect_stdout=sys.stdout.isatty(),
            disable=not console.is_terminal,  # elsewhere it would end in an empty line
        ) as progress:  # fmt: skip
            task = progress.add_task("bandwidth", total=len(args.models) * len(widths))
            device = bandwidth.measure_device()
            print(f"{device.name}: {show_bytes(device.bandwidth.median)}/s", flush=True)
            if warning := others.warning:
                print(warning, file=sys.stderr)
            rows = []
            for name in args.models:
                for width in widths:
                    progress.update(task, description=f"{name} at {width} bits")
                    rows += measure_models(
                        name, width, contexts, args.generate, args.rounds, device
                    )
                    progress.advance(task)
    except (BadAmount, BadConfig, BadDestination) as error:
        print(error, file=sys.stderr)
        return 2
    if warning := others.warning:  # of the whole run, beside its figures
        print(warning, file=sys.stderr)
    if args.output:
        measured_on = _device(device) | {"other_programs": others.share}
        document = {"schema": SCHEMA, "device": measured_on, "measurements": rows}
        try:
            write_atomically(args.output, json.dumps(document, indent=1) + "\n")
        except OSError as error:
            print(f"{args.output} was not written: {error.strerror}.", file=sys.stderr)
            return 2
    return 0


def _columns() -> "list[ProgressColumn]":
    """Which model is measured, how many are done, and how long the rest will take: models take as
    long as each other only roughly."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True)]  # fmt: skip


def measure_models(
    name: str, width: int, contexts: list[int], generate: int, rounds: int, device: "Device"
) -> list[dict[str, Any]]:
    """Fill one model and measure it at each context; a row of plain values for each.

    A model without room, or a device that does not count its memory, gives one row with the
    `reason`. The memory is free again afterwards.
    """
    import mlx.core as mx

    from llm_spec.model.accounting import bits_per_weight
    from llm_spec.model.declare import declare, published
    from llm_spec.performance import memory, roofline, speed
    from llm_spec.performance.materialise import DoesNotFit, materialise

    model = published()[name]
    on_gpu = mx.default_device().type == mx.gpu
    # MLX's CPU backend computes half precision thirty times slower than single.
    dtype = mx.bfloat16 if on_gpu else mx.float32
    declared = declare(model.config, None if width == 16 else width, dtype=dtype)
    try:
        materialise(declared, max(contexts), generate)
    except DoesNotFit as error:
        print(f"{name} at {width} bits: {error}", flush=True)
        return [{"model": name, "bits": width, "reason": str(error)}]
    rows: list[dict[str, Any]] = []
    for context in contexts:
        predicted = memory.predict(declared, context, generate)
        prompt = speed.token_ids(context, model.config["vocab_size"])
        timed = speed.measure_speed(declared, prompt, generate, rounds)
        try:
            measured = memory.measure_memory(declared, context, generate)
        except memory.NoCounters as error:
            print(f"{name} at {width} bits: {error}", flush=True)
            return [{"model": name, "bits": width, "reason": str(error)}]
        read = roofline.decode_read(declared, context + generate // 2)
        flops = roofline.prefill_flops(declared, context)
        rows.append(
            {
                "model": name,
                "bits": width,
                "stored_bits": bits_per_weight(declared),
                "context": context,
                "generated": generate,
                "decode": _sample(timed.decode),
                "prefill": _sample(timed.prefill),
                "first_token": _sample(timed.first_token),
                "first_use": timed.first_use,
                "bytes_per_token": read.total,
                "ceiling": read.ceiling(device.bandwidth.median),
                "share": read.share(timed.decode.median, device.bandwidth.median),
                "prefill_share": flops / timed.first_token.median / device.matmul.median,
                "predicted": asdict(predicted) | {"resident": predicted.resident},
                "measured": asdict(measured) | {"peak": measured.peak},
            }
        )
        print(_line(rows[-1]), flush=True)
    del declared
    mx.clear_cache()
    return rows


def _line(row: dict[str, Any]) -> str:
    predicted, measured = row["predicted"], row["measured"]
    once = row["first_use"] - row["first_token"]["median"]
    compiled = f", the first time {once:.1f} s longer" if once > 0.1 else ""
    return (
        f"{row['model']} at {row['bits']} bits, {row['context']} tokens: "
        f"{row['decode']['median']:.1f} tok/s ({row['share']:.0%} of the ceiling), "
        f"prefill {row['prefill']['median']:.0f} tok/s{compiled}; "
        f"memory {show_bytes(measured['resident'])}, "
        f"predicted {show_bytes(predicted['resident'])}; "
        f"peak {show_bytes(measured['peak'])}, predicted {show_bytes(predicted['peak'])}"
    )


def _device(device: "Device") -> dict[str, Any]:
    import platform

    from llm_spec.ledger.results import version
    from llm_spec.performance import chips

    chip = chips.here()
    return {
        "name": device.name,
        "bandwidth": _sample(device.bandwidth),
        "bandwidth_published": chip.bandwidth if chip else None,
        "matmul": _sample(device.matmul),
        "matmul_dtype": device.dtype,
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
    }


def _sample(sample: "Sample") -> dict[str, Any]:
    return {"median": sample.median, "spread": sample.spread, "values": list(sample.values)}
