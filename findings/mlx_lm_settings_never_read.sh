#!/usr/bin/env bash
# Context extension and sliding windows that config.json states and the port never reads.
#
# MLX 0.32.4, mlx-lm 0.32.2, Linux x86-64, CPU, float32, tiny random models. A maker's long-context
# recipe adds YaRN to rope_scaling: llama and qwen3 compute something else with it, qwen3_moe and
# mixtral the same bits. A window of 8 instead of 4,096 changes gemma3_text and none of gemma2, phi3 and
# starcoder2, whose published models have one. Nothing is said. Seen, the largest change of a logit:
#     rope_scaling: llama 0.855, qwen3 2.52, qwen3_moe 0, mixtral 0
#     sliding_window: gemma3_text 5.04, gemma2 0, phi3 0, starcoder2 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib import import_module

import mlx.core as mx

SIZES = dict(
    hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4, head_dim=16,
    num_key_value_heads=2, vocab_size=64, rms_norm_eps=1e-6, rope_theta=10000.0,
    max_position_embeddings=64, tie_word_embeddings=True, attention_bias=False,
)
EXPERTS = dict(
    num_experts=4, num_local_experts=4, num_experts_per_tok=2, decoder_sparse_step=1,
    mlp_only_layers=[], moe_intermediate_size=32, norm_topk_prob=True,
)
GEMMA = dict(query_pre_attn_scalar=16.0, attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}


def logits(model_type, **config):
    module = import_module(f"mlx_lm.models.{model_type}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({"model_type": model_type, **SIZES, **config}))
    return model(mx.arange(64)[None] % 50)


def change(model_type, one, other, **more):
    apart = mx.abs(logits(model_type, **one, **more) - logits(model_type, **other, **more))
    return float(apart.max())


scaled = {
    name: change(name, {}, {"rope_scaling": YARN}, **(EXPERTS if name in ("qwen3_moe", "mixtral") else {}))
    for name in ("llama", "qwen3", "qwen3_moe", "mixtral")
}
windows = {
    "gemma3_text": dict(sliding_window_pattern=2, query_pre_attn_scalar=16.0),
    "gemma2": GEMMA, "phi3": {}, "starcoder2": dict(norm_epsilon=1e-5, use_bias=True),
}
windowed = {
    name: change(name, {"sliding_window": 4096}, {"sliding_window": 8}, **more)
    for name, more in windows.items()
}
print("rope_scaling:", ", ".join(f"{name} {value:.3g}" for name, value in scaled.items()))
print("sliding_window:", ", ".join(f"{name} {value:.3g}" for name, value in windowed.items()))
assert [value > 0.1 for value in scaled.values()] == [True, True, False, False]
assert max(scaled["qwen3_moe"], scaled["mixtral"]) == 0
assert windowed["gemma3_text"] > 0.1
assert max(windowed["gemma2"], windowed["phi3"], windowed["starcoder2"]) == 0
PY
