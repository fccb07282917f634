#!/usr/bin/env bash
# Gemma 3 in mlx-lm multiplies embeddings by 25.25, and by no square root of 640, in float32 too.
#
# MLX 0.32.4, mlx-lm 0.32.2, Linux x86-64, CPU. Gemma scales its embeddings by the square root of its
# width, 25.298 for the 270M model. mlx-lm rounds that number to bfloat16 whatever the model computes
# in: 0.2 % less from the first step on, for a model that computes in float32.
# Seen, for a width of 640 in float32:
#     embeddings are scaled by 25.2500, the square root is 25.2982
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models import gemma3_text

args = gemma3_text.ModelArgs(
    model_type="gemma3_text", hidden_size=640, num_hidden_layers=6, intermediate_size=64,
    num_attention_heads=1, head_dim=32, vocab_size=64,
)
model = gemma3_text.Model(args).model
seen = []
# In place of layers: what the first is given is kept, and handed on unchanged.
model.layers = [lambda x, *_, **__: seen.append(x) or x] * 6
ids = mx.array([[1, 2, 3]])
model(ids)
table = model.embed_tokens(ids)
scale = (seen[0] / table).mean().item()
print(f"embeddings are scaled by {scale:.4f}, the square root is {640**0.5:.4f}")
assert table.dtype == mx.float32 and abs(scale - 25.25) < 1e-3
PY
