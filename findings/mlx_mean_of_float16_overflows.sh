#!/usr/bin/env bash
# mx.mean of float16 numbers is infinite where their sum is over 65,504, however small each is.
#
# MLX 0.32.4, NumPy 2.4.6, Linux x86-64, CPU backend (the same on CUDA, seen on an H200). One expects
# a mean to lie between the smallest and the largest number. MLX adds up in the type of the input
# and then divides; mx.var does so too. NumPy and PyTorch add float16 in float32. mlx.nn's GroupNorm
# and BatchNorm take such means, and mlx-lm's Gemma 3n does of the squares of its 2,048 numbers per
# token, which are added past the limit from a size of 6 on. Seen:
#     mean of 2,048 times 36: MLX inf, NumPy 36.0
#     mean of a hundred thousand times 1: MLX inf, NumPy 1.0
#     GroupNorm of numbers around 20: not a number in float16, right in float32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import mlx.nn as nn
import numpy as np

mx.set_default_device(mx.cpu)
mx.random.seed(0)
squares = mx.square(mx.full((2_048,), 6, dtype=mx.float16))
pixels = 20 + mx.random.normal((1, 64, 64, 8))  # one picture: height, width, channels
narrow = nn.GroupNorm(2, 8)(pixels.astype(mx.float16)).astype(mx.float32)
wide = nn.GroupNorm(2, 8)(pixels)
means = {
    "of 2,048 times 36": (squares.mean().item(), float(np.array(squares).mean())),
    "of a hundred thousand times 1": (
        mx.ones((100_000,), dtype=mx.float16).mean().item(),
        float(np.ones(100_000, np.float16).mean()),
    ),
    "of 2,048 times 6": (mx.full((2_048,), 6, dtype=mx.float16).mean().item(), 6.0),
}
for what, (mlx, numpy) in means.items():
    print(f"mean {what}: MLX {mlx}, NumPy {numpy}")
print(f"GroupNorm of numbers around 20: float16 gives {narrow.std().item():.2f} as the standard deviation"
      f" of its output, float32 {wide.std().item():.2f}")
assert means["of 2,048 times 36"] == (float("inf"), 36.0)
assert means["of a hundred thousand times 1"] == (float("inf"), 1.0)
assert means["of 2,048 times 6"][0] == 6
assert narrow.std().item() == 0 or not np.isfinite(narrow.std().item())
assert abs(wide.std().item() - 1) < 0.01
PY
