#!/usr/bin/env bash
# mlx-lm loads an adapter of which half the tensors are missing, and answers as the base model.
#
# mlx-lm 0.32.2, MLX 0.32.4. load_adapters refuses a file with a tensor that the model has no place for.
# A file that lacks tensors, as after a broken copy or a merge of shards, is taken without a word: what
# is missing keeps the values with which an untrained LoRA starts, and lora_b starts at zero. Seen,
# as the largest change of a logit:
#     all tensors:    0.75
#     without lora_b: 0.00
#     one more:       ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

parameters = {"rank": 4, "scale": 1.0, "dropout": 0.0}
settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
Path("adapter").mkdir()
Path("adapter/adapter_config.json").write_text(json.dumps(settings))


def build():
    mx.random.seed(0)
    return llama.Model(llama.ModelArgs(
        model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=2, vocab_size=64, rms_norm_eps=1e-6,
    ))


def change(tensors):
    """The largest change of a logit by an adapter of these tensors."""
    mx.save_safetensors("adapter/adapters.safetensors", tensors)
    ids = mx.array([[1, 2, 3]])
    return mx.abs(load_adapters(build(), "adapter")(ids) - build()(ids)).max().item()


model = build()
model.freeze()
linear_to_lora_layers(model, 2, parameters)
names = dict(tree_flatten(model.trainable_parameters()))
trained = {name: 0.1 * mx.random.normal(tensor.shape) for name, tensor in names.items()}
half = {name: tensor for name, tensor in trained.items() if name.endswith("lora_a")}
whole, without = change(trained), change(half)
try:
    change({**trained, "more": mx.zeros(1)})
    told = "loaded"
except Exception as error:
    told = type(error).__name__
print(f"all tensors:    {whole:.2f}")
print(f"without lora_b: {without:.2f}")
print("one more:      ", told)
assert len(half) == len(trained) / 2
assert whole > 0.1 and without == 0 and told == "ValueError"
PY
