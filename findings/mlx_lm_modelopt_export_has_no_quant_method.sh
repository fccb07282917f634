#!/usr/bin/env bash
# mlx-lm reads NVIDIA's hf_quant_config.json and then stops, for a key that this file never has.
#
# mlx-lm 0.32.2, MLX 0.32.4. ModelOpt writes what it packed into hf_quant_config.json, as "producer" and
# "quantization"; older exports say nothing in config.json. mlx_lm.utils.load_model reads that file where
# config.json is silent, and is prepared for its nesting, but first asks it for "quant_method", which
# ModelOpt writes into config.json alone. So the one case that the file is read for ends in a KeyError; with
# that key added, the same weights load and predict the same. Seen:
#     hf_quant_config.json as ModelOpt writes it: KeyError: 'quant_method'
#     with "quant_method": "modelopt" added: loads, logits 0 apart
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.utils import load_model

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
WRITTEN = {
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16,
                     "exclude_modules": ["lm_head"]},
}

mx.random.seed(0)
model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
nn.quantize(
    model, group_size=16, bits=4, mode="nvfp4",
    class_predicate=lambda path, module: path != "lm_head" and isinstance(module, nn.Linear),
)
ids = mx.array([[1, 2, 3, 4, 5]])
expected = model(ids)
folder = Path("model")
folder.mkdir()
mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
(folder / "config.json").write_text(json.dumps(CONFIG))


def loaded(written):
    (folder / "hf_quant_config.json").write_text(json.dumps(written))
    try:
        again = load_model(folder)[0]
    except KeyError as error:
        return f"KeyError: {error}"
    return f"loads, logits {mx.abs(again(ids) - expected).max().item():.3g} apart"


as_written = loaded(WRITTEN)
print(f"hf_quant_config.json as ModelOpt writes it: {as_written}")
added = loaded(WRITTEN | {"quant_method": "modelopt"})
print(f'with "quant_method": "modelopt" added: {added}')
assert as_written == "KeyError: 'quant_method'"
assert added == "loads, logits 0 apart"
PY
