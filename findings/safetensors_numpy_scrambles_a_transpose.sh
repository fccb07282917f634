#!/usr/bin/env bash
# safetensors.numpy 0.8.0 saves a transposed array in the order of its memory: other numbers, same shape.
#
# safetensors 0.8.0 beside 0.7.0, numpy 2.4.6. Since 0.8.0 save and save_file hand over a pointer and a
# shape, and nothing looks at the strides; 0.7.0 copied the array in its logical order, and the PyTorch
# side raises. The docstring asks for contiguous tensors, which an array in Fortran order is, by NumPy's
# flags, too. A LoRA adapter of PEFT is turned into one of mlx-lm by transposing each matrix: shapes
# fit, it loads, and the answers are nonsense. Also known as safetensors issue 825. Seen, the transpose of
# [[0, 1, 2], [3, 4, 5]], saved and loaded:
#     safetensors 0.7.0: [[0, 3], [1, 4], [2, 5]]
#     safetensors 0.8.0: [[0, 1], [2, 3], [4, 5]], F_CONTIGUOUS: True
#     an adapter of rank 4: relative error of lora_a @ lora_b: 0.7.0 0.00, 0.8.0 1.37
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >save.py <<'PY'
import json

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

matrix = np.arange(6).reshape(2, 3).T
save_file({"x": matrix}, "x.safetensors")
saved = load_file("x.safetensors")["x"]
assert (load(save({"x": matrix}))["x"] == saved).all()
random = np.random.default_rng(0)
peft_a, peft_b = random.normal(size=(4, 64)), random.normal(size=(32, 4))  # (rank, in), (out, rank)
save_file({"lora_a": peft_a.T, "lora_b": peft_b.T}, "adapters.safetensors")
adapter = load_file("adapters.safetensors")
delta, right = adapter["lora_a"] @ adapter["lora_b"], (peft_b @ peft_a).T
error = float(np.linalg.norm(delta - right) / np.linalg.norm(right))
print(json.dumps([safetensors.__version__, saved.tolist(), matrix.flags.f_contiguous, error]))
PY
for version in 0.7.0 0.8.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" 'numpy==2.4.6'
    "$folder/$version/bin/python" save.py >>seen.txt
done
python3 - <<'PY'
import json
from pathlib import Path

old, new = map(json.loads, Path("seen.txt").read_text().splitlines())
print(f"safetensors {old[0]}: {old[1]}")
print(f"safetensors {new[0]}: {new[1]}, F_CONTIGUOUS: {new[2]}")
errors = f"{old[0]} {old[3]:.2f}, {new[0]} {new[3]:.2f}"
print("an adapter of rank 4: relative error of lora_a @ lora_b:", errors)
assert old[1] == [[0, 3], [1, 4], [2, 5]] and old[3] < 1e-9
assert new[1] == [[0, 1], [2, 3], [4, 5]] and new[2] and new[3] > 1
PY
