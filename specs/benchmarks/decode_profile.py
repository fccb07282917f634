"""Where the time of a decode step goes on CUDA: kernels, and the gaps between them.

    python -m specs.benchmarks.decode_profile qwen3-8b --bits 4 --batch 1,8,32

Needs PyTorch with CUDA (extra: peers): its profiler records the kernels of the whole process, MLX's
too. The model has random weights. Without the profiler the same steps are timed alone, so its cost
is seen.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.model.declare import declare, published
from llm_spec.performance import bandwidth, roofline
from llm_spec.performance.materialise import materialise

CONTEXT, STEPS, WARM_UP = 128, 32, 8


def decoding(model: Any, rows: int) -> Any:
    """A function that makes `steps` tokens greedily for `rows` sequences, and how long it took."""
    tokens, cache = mx.zeros((rows, CONTEXT), mx.int32), make_prompt_cache(model)

    def decode(steps: int) -> float:
        nonlocal tokens
        start = time.perf_counter()
        for _ in range(steps):
            tokens = model(tokens, cache=cache)[:, -1:].argmax(axis=-1)  # (rows, 1)
            mx.async_eval(tokens)
        mx.eval(tokens)
        return time.perf_counter() - start

    decode(WARM_UP)
    return decode


def profiled(decode: Any) -> list[dict[str, Any]]:
    """The kernels and copies of `STEPS` steps, with start and duration in microseconds."""
    import torch

    torch.cuda.init()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        decode(STEPS)
        mx.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kinds = {"kernel", "gpu_memcpy", "gpu_memset"}
    return [event for event in events if event.get("cat") in kinds]


def busy(events: list[dict[str, Any]]) -> tuple[float, float]:
    """Microseconds in which at least one of `events` ran, and from the first to the last."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    covered, end = 0.0, spans[0][0]
    for start, stop in spans:
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered, end - spans[0][0]


def family(name: str) -> str:
    """A kernel's name without its template arguments and parameters."""
    return name.partition("<")[0].partition("(")[0].removeprefix("void ").split("::")[-1][:48]


def main() -> None:
    """Print one line per batch, and the kernels that take longest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=list(published()))
    parser.add_argument("--bits", type=int, default=4, help="16: bfloat16, not packed")
    parser.add_argument("--batch", default="1,8,32")
    args = parser.parse_args()
    bits = None if args.bits == 16 else args.bits
    model = declare(published()[args.model].config, bits, dtype=mx.bfloat16)
    materialise(model, CONTEXT + WARM_UP + 4 * STEPS, 1)
    stream = bandwidth.streaming().sample(3).best
    for rows in map(int, args.batch.split(",")):
        decode = decoding(model, rows)
        alone = min(decode(STEPS) for _ in range(2))
        events = profiled(decode)
        covered, span = busy(events)
        read = roofline.decode_read(model, CONTEXT).total / stream
        print(
            f"{args.model}, {args.bits} bits, {rows} rows: {1e3 * alone / STEPS:.2f} ms per step, "
            f"profiled {span / STEPS / 1e3:.2f} ms: {covered / span:.0%} in kernels, "
            f"{1 - covered / span:.0%} between them, {len(events) / STEPS:.0f} kernels; "
            f"reading at {stream / 1e9:,.0f} GB/s would take {1e3 * read:.2f} ms",
            flush=True,
        )
        took: Counter[str] = Counter()
        for event in events:
            took[family(event["name"])] += event["dur"]
        for name, micros in took.most_common(6):
            print(f"    {micros / STEPS / 1e3:.3f} ms per step  {name}", flush=True)


if __name__ == "__main__":
    main()
