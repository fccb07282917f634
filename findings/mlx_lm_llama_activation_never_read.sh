#!/usr/bin/env bash
# ReluLLaMA's config.json says hidden_act relu; mlx-lm's llama computes SiLU, whatever it says.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU, float32, a tiny random model. SparseLLM/ReluLLaMA-7B and 70B are of type
# llama and state relu. Seen, the distance of the first layer's MLP, relative to its norm:
#     from down(relu(gate) * up): 0.41
#     from down(silu(gate) * up): 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama

mx.set_default_device(mx.cpu)
mx.random.seed(0)
config = {
    "model_type": "llama", "hidden_act": "relu", "hidden_size": 64, "num_hidden_layers": 1,
    "intermediate_size": 96, "num_attention_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": 64,
}
model = llama.Model(llama.ModelArgs.from_dict(config))
mlp, x = model.model.layers[0].mlp, mx.random.normal((8, 64))
found = mlp(x)


def distance(act):
    asked = mlp.down_proj(act(mlp.gate_proj(x)) * mlp.up_proj(x))
    return float(mx.linalg.norm(found - asked) / mx.linalg.norm(asked))


print(f"from down(relu(gate) * up): {distance(nn.relu):.2g}")
print(f"from down(silu(gate) * up): {distance(nn.silu):.2g}")
assert distance(nn.relu) > 0.1
assert distance(nn.silu) < 1e-5
PY
