#!/usr/bin/env bash
# The bias by which ERNIE 4.5's router chooses experts is thrown away when mlx-lm loads the model.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. The files hold moe_statics.e_score_correction_bias per layer, which is
# added to the scores when experts are chosen (so in vLLM, SGLang and llama.cpp). mlx-lm's sanitize removes
# it beside the tensors of multi-token prediction, and its block has no place for it. Nothing is said, and
# other experts answer. Seen:
#     tensors of a file with model.layers.1.mlp.moe_statics.e_score_correction_bias: none kept
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models.ernie4_5_moe import Model, ModelArgs

mx.set_default_device(mx.cpu)
model = Model(ModelArgs(
    model_type="ernie4_5_moe", hidden_size=32, intermediate_size=64, max_position_embeddings=64,
    num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_hidden_layers=2, rms_norm_eps=1e-5,
    vocab_size=64, rope_theta=10_000.0, use_bias=False, tie_word_embeddings=True,
    moe_num_experts=8, moe_layer_start_index=0, moe_intermediate_size=32, moe_k=2, moe_layer_interval=1))
bias = "model.layers.1.mlp.moe_statics.e_score_correction_bias"
kept = model.sanitize({bias: mx.array([[9.0] + [0.0] * 7])})
print("tensors of a file with", bias + ":", list(kept) or "none kept")
assert kept == {}
PY
