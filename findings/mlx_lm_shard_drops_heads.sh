#!/usr/bin/env bash
# Heads that the ranks do not divide are not refused: mlx-lm's `shard` computes another model.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU, two ranks of a ring on one machine. `shard` divides the rows of the
# projections, which 3 heads of 32 allow, and computes `n_heads //= 2`: one head of 48. Seen, as largest
# distance of a row of logits, relative to its norm:
#     4 heads on 2 ranks: 4.5e-07
#     3 heads on 2 ranks: 0.31, and no error
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
cat >rank.py <<'PY'
import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

mx.set_default_device(mx.cpu)
group = mx.distributed.init(strict=True, backend="ring")
ids = mx.array([[5, 6, 7, 8, 9, 10]])
far = {}
for heads in (4, 3):
    args = ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=96,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=32, rms_norm_eps=1e-5,
        vocab_size=80)
    mx.random.seed(0)
    model = Model(args)
    whole = model(ids)
    mx.eval(whole)
    model.shard(group)
    missed = mx.linalg.norm(model(ids) - whole, axis=-1) / mx.linalg.norm(whole, axis=-1)
    far[heads] = missed.max().item()
    if group.rank() == 0:
        print(f"{heads} heads on 2 ranks: {far[heads]:.2g}", flush=True)
assert far[4] < 1e-5 < 1e-2 < far[3], far
PY
"$folder/venv/bin/python" - >hosts.json <<'PY'
import json, socket

probes = [socket.socket() for _ in range(2)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(json.dumps([[f"127.0.0.1:{probe.getsockname()[1]}"] for probe in probes]))
PY
MLX_RANK=1 MLX_HOSTFILE=hosts.json timeout 60 "$folder/venv/bin/python" rank.py &
MLX_RANK=0 MLX_HOSTFILE=hosts.json timeout 60 "$folder/venv/bin/python" rank.py
wait $!
