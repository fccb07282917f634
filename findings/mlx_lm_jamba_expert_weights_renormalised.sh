#!/usr/bin/env bash
# Jamba's chosen experts always weigh 1 together in mlx-lm; as published they weigh what the softmax over all experts gives them.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. vLLM (JambaMoE, renormalize off) and llama.cpp (jamba.cpp) take the
# softmax over all 16 experts and keep the chosen two as they are. mlx-lm takes it over the chosen two
# alone. Where all experts are alike, a block should give 0.23 to 0.33 of what one expert gives. Seen:
#     weights of the chosen experts, added, by softmax over all 16: [0.28, 0.31, 0.23, 0.33]
#     by mlx-lm: [1.0, 1.0, 1.0, 1.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from types import SimpleNamespace

import mlx.core as mx
from mlx_lm.models.jamba import JambaSparseMoeBlock

mx.set_default_device(mx.cpu)
mx.random.seed(0)
EXPERTS, CHOSEN, WIDTH = 16, 2, 32
block = JambaSparseMoeBlock(SimpleNamespace(
    hidden_size=WIDTH, intermediate_size=64, num_experts=EXPERTS, num_experts_per_tok=CHOSEN))
for projection in (block.switch_mlp.gate_proj, block.switch_mlp.up_proj, block.switch_mlp.down_proj):
    projection.weight = mx.broadcast_to(projection.weight[:1], projection.weight.shape) + 0
x = mx.random.normal((1, 4, WIDTH))
one = block.switch_mlp(x, mx.zeros((1, 4, 1), dtype=mx.int32)).squeeze(-2)
share = mx.softmax(block.router(x), axis=-1)
published = mx.sort(share, axis=-1)[..., -CHOSEN:].sum(axis=-1)
computed = (block(x) * one).sum(axis=-1) / (one * one).sum(axis=-1)
print("weights of the chosen experts, added, by softmax over all 16:", [round(v, 2) for v in published[0].tolist()])
print("by mlx-lm:", [round(v, 2) for v in computed[0].tolist()])
assert mx.allclose(computed, mx.ones((1, 4)), atol=1e-5)
assert published.max().item() < 0.6
PY
