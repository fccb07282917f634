#!/usr/bin/env bash
# EmbeddingGemma in mlx-embeddings and mlx-vlm reads a long text through 24 open layers, where 20 have a window.
#
# mlx-embeddings 0.1.0, mlx-vlm 0.7.10, transformers 5.24.0 with PyTorch 2.14.1. In EmbeddingGemma five of
# six layers see 256 tokens to either side (its config.json: sliding_window 512 and
# use_bidirectional_attention). Both MLX packages give the mask of the padding to all layers alike, and the
# window of the configuration is never asked for. A sentence has the right embedding and a chunk of more
# than 257 tokens has another one, so a check with short sentences finds nothing. Seen, a tiny random
# model of six layers with a window of 8, the largest difference of a hidden state from transformers:
#     tokens   mlx-embeddings   mlx-vlm   (largest hidden state)
#     5        1.7e-06          0.00033   3
#     32       3.4              3.4       3.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' \
  'mlx-embeddings==0.1.0' 'mlx-vlm==0.7.10' 'transformers==5.24.0' 'torch==2.14.1' 'numpy==2.4.6'
cd "$folder"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - 2> errors <<'PY' || { tail -n 3 errors; exit 1; }
import mlx.core as mx
import numpy as np
import torch
from mlx_embeddings.models.gemma3_text import Model
from mlx_lm.models.gemma3_text import ModelArgs
from mlx_vlm.models import gemma3_embedding
from transformers import Gemma3TextConfig, Gemma3TextModel

mx.set_default_device(mx.cpu)
torch.manual_seed(0)
SHAPE = dict(
    model_type="gemma3_text", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=6,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
    sliding_window=8, max_position_embeddings=64, rms_norm_eps=1e-6,
)
config = Gemma3TextConfig(**SHAPE, use_bidirectional_attention=True, initializer_range=0.3)
reference = Gemma3TextModel(config).eval()
reference.save_pretrained("model")
for_mlx = {**SHAPE, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
models = {
    "mlx-embeddings": Model(ModelArgs.from_dict(for_mlx)),
    "mlx-vlm": gemma3_embedding.Model(gemma3_embedding.ModelConfig.from_dict(for_mlx)),
}
for model in models.values():
    weights = model.sanitize(mx.load("model/model.safetensors"))
    model.load_weights(list(weights.items()), strict=False)  # without the layers behind the pooling

print("tokens   mlx-embeddings   mlx-vlm   (largest hidden state)")
seen = {}
for length in (5, 32):
    with torch.no_grad():
        right = reference(torch.arange(1, length + 1)[None]).last_hidden_state.numpy()  # [1, length, 32]
    tokens = mx.arange(1, length + 1)[None]
    off = [float(np.abs(np.array(it(tokens).last_hidden_state) - right).max()) for it in models.values()]
    print(f"{length:<8} {off[0]:<16.2g} {off[1]:<9.2g} {np.abs(right).max():.2g}")
    seen[length] = off
assert max(seen[5]) < 0.01, "a short text has other hidden states than in transformers, too"
assert min(seen[32]) > 0.5, "a text longer than the window has the hidden states of transformers"
PY
