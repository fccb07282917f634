#!/usr/bin/env bash
# MiniCPM3's logits are hidden_size / dim_model_base times too large when its head is tied.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. The model divides the last hidden state by hidden_size / dim_model_base
# before the head. mlx-lm does so before lm_head, and not where the embedding is the head (its minicpm
# neither), while SGLang and llama.cpp divide in both cases. Greedy text is the same; every sampled one is
# as if the temperature were a fraction. Seen, with hidden_size 64 and dim_model_base 16:
#     logits with a tied head over those of the same head untied: 4.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models.minicpm3 import Model, ModelArgs

mx.set_default_device(mx.cpu)
mx.random.seed(0)
HIDDEN, BASE = 64, 16
settings = dict(
    model_type="minicpm3", hidden_size=HIDDEN, dim_model_base=BASE, num_hidden_layers=2,
    intermediate_size=96, num_attention_heads=2, rms_norm_eps=1e-5, vocab_size=80,
    num_key_value_heads=2, q_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, kv_lora_rank=32,
    scale_depth=1.4, scale_emb=12.0, max_position_embeddings=128,
    rope_scaling={"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8,
                  "original_max_position_embeddings": 128})
untied = Model(ModelArgs(**settings))
tied = Model(ModelArgs(**settings, tie_word_embeddings=True))
tied.model = untied.model
untied.lm_head.weight = untied.model.embed_tokens.weight
ids = mx.array([[5, 6, 7]])
ratio = (tied(ids) / untied(ids)).mean().item()
print(f"logits with a tied head over those of the same head untied: {ratio:.2f}")
assert abs(ratio - HIDDEN / BASE) < 1e-3
PY
