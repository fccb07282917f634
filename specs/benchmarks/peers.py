"""What looking inside costs, here and in other libraries: `python -m specs.benchmarks.peers`.

For each library, the time of one pass that keeps every layer's state and attention map, over the
time of the same library's plain pass: taken in turns, so that a slow moment slows both. Seconds of
different libraries are not compared. Needs the extra `peers`; what is not installed is not run.
"""

# ruff: noqa: E402  a BLAS is loaded before MLX, or it has no effect
from llm_spec.numerics import blas

BLAS = blas.preload()

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import mlx.core as mx
from rich.console import Console
from rich.table import Table

from fixtures.models.subjects import Subject
from fixtures.provision import catalogue
from llm_spec.observe.trace import trace
from llm_spec.performance import speed

Pair = tuple[Callable[[], object], Callable[[], object]]
"""A plain pass, and one that is watched."""


def here(subject: Subject, ids: list[int], verify: bool) -> Pair:
    """`llm_spec.observe.trace`, with every map verified or none."""
    model, batch = subject.model, mx.array([ids])
    return lambda: mx.eval(model(batch)), lambda: trace(model, ids, verify=verify)


def transformers(subject: Subject, ids: list[int]) -> Pair:
    """transformers' own switches, with eager attention on both sides."""
    import torch

    from fixtures.doubles.transformers_llama import transformers_llama

    model, batch = transformers_llama(subject), torch.tensor([ids])
    everything = {"output_attentions": True, "output_hidden_states": True}
    return without_gradients(lambda: model(batch)), without_gradients(
        lambda: model(batch, **everything)
    )


def nnsight(subject: Subject, ids: list[int]) -> Pair:
    """nnsight around the same transformers model."""
    import nnsight
    import torch

    from fixtures.doubles.transformers_llama import transformers_llama

    model, batch = transformers_llama(subject), torch.tensor([ids])
    wrapped = nnsight.NNsight(model)

    def watched() -> object:
        with wrapped.trace(batch):
            seen = nnsight.save([])
            for layer in wrapped.model.layers:
                seen.append(layer.self_attn.output[1])
                seen.append(layer.output)
        assert len(seen) == 2 * len(model.model.layers), f"{len(seen)} parts were kept"
        return seen

    return without_gradients(lambda: model(batch)), without_gradients(watched)


def transformer_lens(subject: Subject, ids: list[int]) -> Pair:
    """TransformerLens around the same transformers model; its plain pass has its hooks as well."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    from fixtures.doubles.transformers_llama import transformers_llama

    model = TransformerBridge.boot_transformers(
        str(subject.path), hf_model=transformers_llama(subject), device="cpu"
    )
    batch = torch.tensor([ids])

    def watched() -> object:
        _, seen = model.run_with_cache(batch)
        assert "blocks.0.attn.hook_pattern" in seen, f"no map among {list(seen)}"
        return seen

    return without_gradients(lambda: model(batch)), without_gradients(watched)


def without_gradients(work: Callable[[], object]) -> Callable[[], object]:
    import torch

    return torch.no_grad()(work)


def ratios(pair: Pair, rounds: int) -> list[float]:
    """Time of the watched pass over that of the plain one next to it, round by round."""
    for work in pair:
        work()
    pairs = [[_seconds(work) for work in pair] for _ in range(rounds)]
    return [watched / plain for plain, watched in pairs]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m specs.benchmarks.peers")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    subject = Subject(catalogue.entry("smollm2-135m"))
    ids = speed.token_ids(options.tokens, subject.config["vocab_size"])
    libraries: dict[str, tuple[str, Callable[[], Pair]]] = {
        "here": ("mlx", lambda: here(subject, ids, verify=False)),
        "here, every map verified": ("mlx", lambda: here(subject, ids, verify=True)),
        "transformers, output_*": ("transformers", lambda: transformers(subject, ids)),
        "nnsight": ("nnsight", lambda: nnsight(subject, ids)),
        "TransformerLens": ("transformer-lens", lambda: transformer_lens(subject, ids)),
    }
    table = Table("watched over plain", "version", "median", "lowest", "highest")
    for name, (package, prepare) in libraries.items():
        try:
            found = ratios(prepare(), options.rounds)
        except ImportError as error:
            table.add_row(name, "", f"not run: {str(error).partition(chr(10))[0]}")
            continue
        figures = (statistics.median(found), min(found), max(found))
        table.add_row(name, version(package), *(f"{figure:.2f}" for figure in figures))
    Console().print(table)
    print(f"{options.tokens} tokens, {options.rounds} rounds in turns, float32; MLX on {BLAS}")


if __name__ == "__main__":
    main()
