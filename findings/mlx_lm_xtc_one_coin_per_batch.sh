#!/usr/bin/env bash
# XTC tosses one coin for a whole batch: in each step all rows lose their likeliest tokens, or none does.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. xtc_probability is the chance that a token is sampled so. One draws it
# for each sequence; apply_xtc draws one number per call, whatever the batch. With 64 equal rows and a
# probability of one half, half of the rows should lose a token in each step. Seen:
#     rows of 64 that lost a token, and in how many of 200 steps: {0: 111, 64: 89}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.sample_utils import apply_xtc

mx.set_default_device(mx.cpu)
mx.random.seed(0)
ROWS, CALLS = 64, 200
logits = mx.log(mx.array([[0.4, 0.3, 0.2, 0.1]] * ROWS))
counts = [int(mx.isinf(apply_xtc(logits, 0.5, 0.15, [])).any(axis=-1).sum().item()) for _ in range(CALLS)]
seen = {count: counts.count(count) for count in sorted(set(counts))}
print(f"rows of {ROWS} that lost a token, and in how many of {CALLS} steps:", seen)
assert set(seen) == {0, ROWS}
PY
