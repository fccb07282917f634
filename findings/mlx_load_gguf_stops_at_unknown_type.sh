#!/usr/bin/env bash
# mx.load of a GGUF file leaves out a tensor of a type that it does not know, and all that follow.
#
# MLX 0.32.4, gguf 0.19.0, Linux x86-64, CPU. A file holds three tensors; the second is of type TQ1_0
# (ternary weights). mx.load returns the first alone and raises nothing. For other types that it cannot
# decode (Q5_K, Q3_K, IQ4_XS) it raises. Seen:
#     in the file: ['a.weight', 'b.weight', 'c.weight']
#     loaded:      ['a.weight']
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
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

kind = GGMLQuantizationType.TQ1_0
weights_per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
ternary = np.zeros((4, 512 // weights_per_block * bytes_per_block), np.uint8)
writer = GGUFWriter("ternary.gguf", "llama")
writer.add_tensor("a.weight", np.ones((4, 8), np.float32))
writer.add_tensor("b.weight", ternary, raw_dtype=kind)
writer.add_tensor("c.weight", np.ones((4, 8), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

held = [tensor.name for tensor in GGUFReader("ternary.gguf").tensors]
loaded = sorted(mx.load("ternary.gguf"))
print("in the file:", held)
print("loaded:     ", loaded)
assert held == ["a.weight", "b.weight", "c.weight"] and loaded == ["a.weight"]
PY
