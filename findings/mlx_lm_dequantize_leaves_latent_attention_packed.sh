#!/usr/bin/env bash
# mlx_lm.convert --dequantize leaves two matrices per layer of DeepSeek V3 packed; the result does not load.
#
# mlx-lm 0.32.2, MLX 0.32.4, Linux x86-64, CPU. What --dequantize does is dequantize_model, after the
# quantisation was taken out of config.json. It knows linear, embedding and expert layers, and not
# QuantizedMultiLinear, the per-head matrices of multi-head latent attention (deepseek_v3, deepseek_v32,
# glm4_moe_lite, kimi_linear, longcat_flash, mistral4). The model in memory still computes right, hours
# of writing end without an error, and load_model refuses the folder. Seen, two layers:
#     still packed: embed_q, embed_q, unembed_out, unembed_out
#     loaded again: ValueError: Received 8 parameters not in model
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

from mlx_lm.models import deepseek_v3
from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model

config = dict(
    model_type="deepseek_v3", vocab_size=128, hidden_size=128, intermediate_size=128,
    moe_intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    n_shared_experts=1, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1,
    kv_lora_rank=64, q_lora_rank=64, qk_rope_head_dim=64, qk_nope_head_dim=64, v_head_dim=64,
)
model = deepseek_v3.Model(deepseek_v3.ModelArgs.from_dict(config))
model, _ = quantize_model(model, config, 64, 4)
model = dequantize_model(model)
packed = [path.split(".")[-1] for path, layer in model.named_modules() if hasattr(layer, "bits")]
print("still packed:", ", ".join(sorted(packed)))

folder, told = Path("dequantized"), "no error"
folder.mkdir()
save_model(folder, model)
save_config(config, folder / "config.json")
try:
    load_model(folder)
except ValueError as error:
    told = f"ValueError: {str(error).split(':')[0].strip().rstrip('.')}"
print("loaded again:", told)
assert sorted(packed) == ["embed_q", "embed_q", "unembed_out", "unembed_out"]
assert told.startswith("ValueError: Received 8 parameters not in model")
PY
