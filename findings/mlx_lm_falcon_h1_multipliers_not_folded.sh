#!/usr/bin/env bash
# Falcon-H1's key multiplier is lost, and its values miss the multiplier of attention's input.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. The loader folds the configuration's multipliers into the weights. It
# looks for key_proj, and the files say k_proj; and it scales q_proj and k_proj by attention_in_multiplier,
# which the model applies to what all three read (so in vLLM and SGLang). Seen, of matrices of ones:
#     key_multiplier 0.25: {'q_proj': 1.0, 'k_proj': 1.0, 'v_proj': 1.0, 'o_proj': 0.9375}
#     attention_in_multiplier 0.5: {'q_proj': 0.5, 'k_proj': 0.5, 'v_proj': 1.0, 'o_proj': 0.9375}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models.falcon_h1 import Model, ModelArgs

mx.set_default_device(mx.cpu)
names = [f"model.layers.0.self_attn.{p}_proj.weight" for p in "qkvo"]


def folded(**multipliers):
    """What the loader makes of matrices of ones."""
    model = Model(ModelArgs(model_type="falcon_h1", num_hidden_layers=1, **multipliers))
    weights = {name: mx.ones((2, 2)) for name in names}
    weights["model.layers.0.mamba.conv1d.weight"] = mx.ones((8, 1, 4))
    kept = model.sanitize(weights)
    return {name.split(".")[4]: kept[name][0, 0].item() for name in names}


of_keys, of_the_input = folded(key_multiplier=0.25), folded(attention_in_multiplier=0.5)
print("key_multiplier 0.25:", of_keys)
print("attention_in_multiplier 0.5:", of_the_input)
assert of_keys == {"q_proj": 1, "k_proj": 1, "v_proj": 1, "o_proj": 0.9375}
assert of_the_input == {"q_proj": 0.5, "k_proj": 0.5, "v_proj": 1, "o_proj": 0.9375}
PY
