#!/usr/bin/env bash
# In mlx-lm's DeepSeek-V3 an expert of a group that was left out scores 0, and is chosen before one whose score is negative.
#
# mlx-lm 0.32.2, mlx 0.32.4, CPU. DeepSeek's own inference/model.py (Gate, at 9b4e978) lets experts of
# groups that are left out score minus infinity. Eight experts in four groups, one group kept, two
# experts chosen, a bias of -2 on each: both should be of one group. Seen:
#     groups of the two chosen experts, with a bias of 0: [3, 3]
#     with a bias of -2: [0, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models.deepseek_v3 import group_expert_select

mx.set_default_device(mx.cpu)
gates = mx.array([[-1.0, -0.8, -0.6, -0.4, 0.1, 0.2, 0.8, 0.9]])


def groups(bias):
    chosen, _ = group_expert_select(gates, mx.full((8,), bias), 2, 4, 1, 1.0, True)
    return sorted(each // 2 for each in chosen[0].tolist())


print("groups of the two chosen experts, with a bias of 0:", groups(0.0))
print("with a bias of -2:", groups(-2.0))
assert groups(0.0) == [3, 3]
assert 3 not in groups(-2.0)
PY
