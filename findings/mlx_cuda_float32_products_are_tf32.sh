#!/usr/bin/env bash
# On CUDA, MLX multiplies one row of float32 in float32 and two rows in TF32: what a row becomes
# depends on its company.
#
# MLX 0.32.4 with its CUDA 13 backend, Linux x86-64, NVIDIA H200; needs an NVIDIA GPU. One expects
# float32 numbers to be multiplied as such, or at least all in the same way. Two rows and more go
# to tensor cores that keep 10 bits of each factor; a single row goes to a kernel of its own that
# keeps 23. So a prompt that is read at once and a token that is decoded are computed with
# different numbers, and a cache in float32 seems to change a model's logits by a thousandth. It
# is so unless MLX_ENABLE_TF32=0 is in the environment before the first product. Seen: the largest
# error of the first of 1, 2 and 512 rows of 512 normal numbers, relative to the largest result
# in float64:
#     as it comes:       1 row 1.4e-07, 2 rows 4.1e-04, 512 rows 4.1e-04
#     MLX_ENABLE_TF32=0: 1 row 1.4e-07, 2 rows 1.6e-07, 512 rows 3.5e-07
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'mlx[cuda13]==0.32.4' 'mlx-cuda-13==0.32.4' 'numpy==2.4.6'
cat > "$folder/errors.py" <<'PY'
import sys

import mlx.core as mx
import numpy as np

if not mx.cuda.is_available():
    sys.exit("this needs an NVIDIA GPU")
rng = np.random.default_rng(0)
rows, weight = rng.standard_normal((2, 512, 512)).astype(np.float32)
exact = rows[0].astype(np.float64) @ weight.astype(np.float64)
for count in (1, 2, 512):
    first = np.array(mx.matmul(mx.array(rows[:count]), mx.array(weight)))[0]
    print(np.abs(first - exact).max() / np.abs(exact).max())
PY
cd "$folder"
"$folder/venv/bin/python" errors.py > usual
MLX_ENABLE_TF32=0 "$folder/venv/bin/python" errors.py > switched_off
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

usual, off = ([float(line) for line in Path(n).read_text().split()] for n in ("usual", "switched_off"))
for name, seen in (("as it comes", usual), ("MLX_ENABLE_TF32=0", off)):
    print(f"{name}: " + ", ".join(f"{n} {e:.1e}" for n, e in zip(("1 row", "2 rows", "512 rows"), seen)))
assert usual[0] < 1e-6 and max(off) < 1e-6
assert min(usual[1:]) > 1e-5
PY
