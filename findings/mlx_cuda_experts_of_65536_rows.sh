#!/usr/bin/env bash
# On CUDA, a layer of packed experts takes 65,535 choices at once and fails at 65,536: eight experts
# for each of 8,192 tokens.
#
# MLX 0.32.4 with its CUDA 13 backend, mlx-lm 0.32.2, Linux x86-64, NVIDIA H200; needs an NVIDIA
# GPU. One expects a pass to be limited by memory. mx.gather_qmm lays its rows along a direction in
# which CUDA starts at most 65,535 blocks, and does not split what is more; mx.topk, mx.sort and the
# like do so with the rows that they sort. One prompt read in chunks of 2,048 tokens stays below; a
# batch of four such prompts, or a training step on four texts of 2,048 tokens, does not. Experts in
# float32 go another way and have no such limit. Seen, with mlx-lm's SwitchGLU, 64 numbers wide:
#     float32: 8 experts for each of 8,191 tokens: works; of 8,192: works
#     4 bits: 8 experts for each of 8,191 tokens: works; of 8,192: failed: invalid argument
#     mx.topk of 65,535 rows: works; of 65,536: failed: invalid argument
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'mlx[cuda13]==0.32.4' 'mlx-cuda-13==0.32.4'
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib
import sys
import sysconfig
import types
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

if not mx.cuda.is_available():
    sys.exit("this needs an NVIDIA GPU")
# One module of the package: as a whole it needs transformers.
package = types.ModuleType("mlx_lm")
package.__path__ = [str(Path(sysconfig.get_path("purelib")) / "mlx_lm")]
sys.modules["mlx_lm"] = package
experts = importlib.import_module("mlx_lm.models.switch_layers").SwitchGLU(64, 64, 16)


def outcome(compute):
    """"works", or what MLX says."""
    try:
        mx.eval(compute())
    except RuntimeError as error:
        return str(error).split(") ")[-1]
    return "works"


def routed(tokens):
    chosen = mx.broadcast_to(mx.arange(8), (1, tokens, 8))
    return outcome(lambda: experts(mx.ones((1, tokens, 64)), chosen))


seen = {"float32": (routed(8_191), routed(8_192))}
nn.quantize(experts, group_size=64, bits=4)
seen["4 bits"] = (routed(8_191), routed(8_192))
for name, (below, above) in seen.items():
    print(f"{name}: 8 experts for each of 8,191 tokens: {below}; of 8,192: {above}")
rows = [outcome(lambda n=n: mx.topk(mx.zeros((n, 64)), 8)) for n in (65_535, 65_536)]
print("mx.topk of 65,535 rows: {}; of 65,536: {}".format(*rows))
assert seen["float32"] == ("works", "works")
for below, above in (seen["4 bits"], rows):
    assert below == "works" and "invalid argument" in above
PY
