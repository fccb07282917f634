#!/usr/bin/env bash
# mx.load reads float8 weights as whole numbers from 0 to 255, and saves them as such.
#
# MLX 0.32.4, safetensors 0.8.0, ml_dtypes 0.6.0. MLX has no float8 type. A type that mx.load has no place
# for is refused, as F8_E5M2 and F64 are; F8_E4M3 and F8_E8M0 (FP8 checkpoints and the scales of the OCP
# formats) come as uint8 without a word. mx.from_fp8 makes the right values of it, for those who
# know; nothing in the array says which uint8 it was. Saved again, for a rename or a split into shards,
# the file says U8, and every other program reads integers. Seen:
#     written by safetensors: F8_E4M3 [0.5, -1.0, 2.0, 0.0]
#     mx.load:                uint8 [48, 184, 64, 0]
#     mx.from_fp8 of it:      [0.5, -1.0, 2.0, 0.0]
#     saved again by MLX:     U8 [48, 184, 64, 0]
#     F8_E8M0 loads as uint8, F8_E5M2 is refused, F64 is refused
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'safetensors==0.8.0' 'ml_dtypes==0.6.0' 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ml_dtypes
import mlx.core as mx
import numpy as np
from safetensors import deserialize
from safetensors.numpy import save_file

VALUES = [0.5, -1.0, 2.0, 0.0]


def stated(path):
    """The type of the tensor w by the file's own header, and its bytes."""
    with open(path, "rb") as file:
        entry = dict(deserialize(file.read()))["w"]
    return entry["dtype"], list(entry["data"])


save_file({"w": np.array(VALUES, ml_dtypes.float8_e4m3fn)}, "one.safetensors")
print("written by safetensors:", stated("one.safetensors")[0], VALUES)
loaded = mx.load("one.safetensors")["w"]
print("mx.load:               ", str(loaded.dtype).removeprefix("mlx.core."), loaded.tolist())
decoded = mx.from_fp8(loaded, dtype=mx.float32).tolist()
print("mx.from_fp8 of it:     ", decoded)
mx.save_safetensors("two.safetensors", {"w": loaded})
print("saved again by MLX:    ", *stated("two.safetensors"))
others = {}
for name, kind in {
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E5M2": ml_dtypes.float8_e5m2, "F64": np.float64,
}.items():
    save_file({"w": np.array([0.5, 1.0, 2.0], kind)}, "other.safetensors")
    assert stated("other.safetensors")[0] == name
    try:
        kept = mx.load("other.safetensors")["w"].dtype
        others[name] = "loads as " + str(kept).removeprefix("mlx.core.")
    except RuntimeError:
        others[name] = "is refused"
print(", ".join(f"{name} {told}" for name, told in others.items()))
assert stated("one.safetensors")[0] == "F8_E4M3" and stated("two.safetensors")[0] == "U8"
assert loaded.dtype == mx.uint8 and decoded == VALUES
assert stated("one.safetensors")[1] == stated("two.safetensors")[1] == loaded.tolist()
assert list(others.values()) == ["loads as uint8", "is refused", "is refused"]
PY
