#!/usr/bin/env bash
# mx.load decodes every second group of a Q4_K tensor with another scale, without a word.
#
# MLX 0.32.4, gguf 0.19.0, Linux x86-64, CPU. Q4_K is the usual type of 4-bit GGUF files. A block holds
# 256 weights in 8 groups of 32, each with a 6-bit scale and a 6-bit minimum. The gguf package and MLX
# agree on groups 0, 2, 4 and 6 to the rounding of float16, and on no other. Seen:
#     groups of 32 that agree: [1, 0, 1, 0, 1, 0, 1, 0]
#     largest weight 9.30, largest error 6.96
# Half of the weights of a model loaded this way are wrong. Q6_K and Q2_K are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'gguf==0.19.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

rng = np.random.default_rng(0)
kind = GGMLQuantizationType.Q4_K
blocks = rng.integers(0, 256, (4, 2, 144), dtype=np.uint8)  # any bytes are valid scales and codes
blocks[..., :4] = np.frombuffer(np.full(2, 0.01, np.float16).tobytes(), np.uint8)  # d and dmin
rows = blocks.reshape(4, 288)
writer = GGUFWriter("q4_k.gguf", "llama")
writer.add_tensor("a.weight", rows, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

expected = gguf.dequantize(rows, kind)  # (4, 512) float32
loaded = np.array(mx.load("q4_k.gguf")["a.weight"].astype(mx.float32))
error = np.abs(loaded - expected)
groups = error.reshape(-1, 8, 32).max(axis=(0, 2))  # over rows and blocks: one figure per group
agree = (groups < 1e-2).astype(int).tolist()
print("groups of 32 that agree:", agree)
print(f"largest weight {np.abs(expected).max():.2f}, largest error {error.max():.2f}")
assert agree == [1, 0] * 4 and error.max() > 5
PY
