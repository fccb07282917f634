#!/usr/bin/env bash
# mlx-lm's Mamba 2 normalises all groups together, where the reference normalises each by itself.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. In state-spaces/mamba the gated norm of a model with n_groups > 1
# (Codestral Mamba has 8) divides by the root mean square of a group. mlx-lm's mamba2 divides by that of all
# channels, so what one group holds changes the others; its nemotron_h does it by group. vLLM had the same
# fault and gained 25 points of GSM8K by mending it (PR 9292). Seen, where nothing should change:
#     the first group's outputs, when the second group's inputs are ten times as large: 0.14 of what they were
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models.mamba2 import Model, ModelArgs

mx.set_default_device(mx.cpu)
mx.random.seed(0)
model = Model(ModelArgs(
    model_type="mamba2", num_heads=4, head_dim=16, vocab_size=64, hidden_size=32, intermediate_size=64,
    state_size=8, num_hidden_layers=1, layer_norm_epsilon=1e-5, conv_kernel=4, n_groups=2,
    use_bias=False, use_conv_bias=True, tie_word_embeddings=True,
    time_step_limit=(0.0, 100.0), time_step_rank="auto"))
norm = model.layers[0].mixer.norm
x = mx.random.normal((1, 64))
first, second = mx.split(x, 2, axis=-1)
plain = norm(x)[..., :32]
beside = norm(mx.concatenate([first, 10 * second], axis=-1))[..., :32]
ratio = (mx.abs(plain).sum() / mx.abs(beside).sum()).item()
print(f"the first group's outputs, when the second group's inputs are ten times as large: {1 / ratio:.2f} of what they were")
assert ratio > 3
PY
