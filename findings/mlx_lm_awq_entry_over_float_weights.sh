#!/usr/bin/env bash
# Float weights whose config.json still names AWQ or GPTQ end mlx-lm's loading in an UnboundLocalError.
#
# mlx-lm 0.32.2, MLX 0.32.4. A model that was dequantised often keeps quantization_config. mlx-lm loads the
# float weights and ignores the entry for fp8 and bitsandbytes. For awq and gptq it looks for packed
# weights, finds none, and uses a variable that only they set; an entry without quant_method is a
# KeyError. Neither message names the file or the entry. Seen:
#     fp8           loaded
#     bitsandbytes  loaded
#     awq           UnboundLocalError: cannot access local variable 'model_dtype' where it is not associated with a value
#     gptq          UnboundLocalError: cannot access local variable 'model_dtype' where it is not associated with a value
#     (none)        KeyError: 'quant_method'
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
from mlx_lm.utils import load_model

config = dict(
    model_type="llama", hidden_size=128, num_hidden_layers=1, intermediate_size=128,
    num_attention_heads=2, num_key_value_heads=2, vocab_size=8, rms_norm_eps=1e-6,
)
Path("model").mkdir()
model = llama.Model(llama.ModelArgs.from_dict(config))
mx.save_safetensors("model/model.safetensors", dict(tree_flatten(model.parameters())))
seen = {}
for method in ("fp8", "bitsandbytes", "awq", "gptq", "(none)"):
    entry = {"bits": 4, "group_size": 128, "quant_method": method}
    if method == "(none)":
        del entry["quant_method"]
    Path("model/config.json").write_text(json.dumps({**config, "quantization_config": entry}))
    try:
        load_model(Path("model"))
        seen[method] = "loaded"
    except Exception as error:
        seen[method] = f"{type(error).__name__}: {error}"
    print(f"{method:13}", seen[method])
assert seen["fp8"] == seen["bitsandbytes"] == "loaded"
assert seen["awq"] == seen["gptq"] and seen["awq"].startswith("UnboundLocalError")
assert seen["(none)"] == "KeyError: 'quant_method'"
PY
