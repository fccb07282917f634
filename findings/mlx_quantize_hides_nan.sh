#!/usr/bin/env bash
# mx.quantize turns a NaN into an ordinary number, in floating-point modes with its whole group.
#
# MLX 0.32.4, Linux x86-64, CPU backend. One NaN among weights of 1 (a damaged checkpoint, a division by
# zero in a merge) should stay a NaN, so that somebody notices: E4M3 and the E8M0 scales of the OCP
# formats have a code for it. On the CPU backend it is gone after mx.quantize, in every mode, and
# mx.to_fp8 makes it 448. A model loads and answers, and no check for NaN finds anything. An infinity
# becomes a NaN in affine mode, and is hidden in the others. Seen, what a group holds afterwards:
#     affine: nan -> [1.0], inf -> [nan]
#     mxfp4: nan -> [0.0], inf -> [0.0]
#     mxfp8: nan -> [896.0], inf -> [896.0]
#     nvfp4: nan -> [0.0], inf -> [0.0]
#     to_fp8: nan -> 448.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import math

import mlx.core as mx

GROUPS = {"affine": 64, "mxfp4": 32, "mxfp8": 32, "nvfp4": 16}


def after(mode, odd):
    """The values of a group of ones with one odd value among them, quantised and back."""
    row = mx.ones((1, 64))
    row[0, 3] = odd
    back = mx.dequantize(*mx.quantize(row, mode=mode), mode=mode).astype(mx.float32)
    return sorted({str(value) for value in back[0, : GROUPS[mode]].tolist()})


mx.set_default_device(mx.cpu)
seen = {}
for mode in GROUPS:
    seen[mode] = after(mode, math.nan), after(mode, math.inf)
    print(f"{mode}: nan -> [{', '.join(seen[mode][0])}], inf -> [{', '.join(seen[mode][1])}]")
byte = mx.from_fp8(mx.to_fp8(mx.array([math.nan])), dtype=mx.float32).item()
print("to_fp8: nan ->", byte)
assert seen == {
    "affine": (["1.0"], ["nan"]), "mxfp4": (["0.0"], ["0.0"]),
    "mxfp8": (["896.0"], ["896.0"]), "nvfp4": (["0.0"], ["0.0"]),
}
assert byte == 448
PY
