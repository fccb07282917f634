#!/usr/bin/env bash
# Solar-Open-100B states YaRN in its config.json, and GLM-4-0414's README asks for it: neither is read.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU, float32, tiny random models. Solar's config.json (rope_scaling of type
# yarn, factor 2.0, original context 65,536) turns every position, from the second token on, otherwise
# than without it; GLM-4's README puts factor 4.0 into config.json for more than 32,768 tokens. qwen3
# computes something else with it; solar_open and glm4 the same bits. Seen, the largest change of a logit:
#     qwen3 1.2, solar_open 0, glm4 0
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
    max_position_embeddings=64, tie_word_embeddings=False, attention_bias=False,
    partial_rotary_factor=1.0,
)
EXPERTS = dict(
    moe_intermediate_size=32, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
    routed_scaling_factor=1.0, first_k_dense_replace=0, norm_topk_prob=True,
)


def logits(model_type, **config):
    module = import_module(f"mlx_lm.models.{model_type}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({"model_type": model_type, **SIZES, **config}))
    return model(mx.arange(64)[None])


def change(model_type, factor, **more):
    yarn = {"type": "yarn", "factor": factor, "original_max_position_embeddings": 32}
    apart = mx.abs(logits(model_type, rope_scaling=yarn, **more) - logits(model_type, **more))
    return float(apart.max())


mx.set_default_device(mx.cpu)
found = {
    "qwen3": change("qwen3", 2.0),
    "solar_open": change("solar_open", 2.0, **EXPERTS),
    "glm4": change("glm4", 4.0),
}
print(", ".join(f"{name} {value:.2g}" for name, value in found.items()))
assert found["qwen3"] > 0.1
assert found["solar_open"] == found["glm4"] == 0
PY
