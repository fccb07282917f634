#!/usr/bin/env bash
# mx.quantize makes -1/2 of every -1 of a ternary matrix at 2 bits, which could hold it exactly.
#
# MLX 0.32.4, CPU. Weights of -s, 0 and s (BitNet b1.58 and its like, unpacked to floats) need three of
# four codes. By the formula in mx.quantize's documentation -s and s stay what they are. The code moves
# the scale until zero is a code: where a group reaches as far down as up, one and a half steps are rounded
# to two, and no code is left for the far end of one side. At 3 bits it is a quarter, at 4 bits an eighth
# that is cut off, in nine of ten rows (the others round to the other side). nn.quantize and
# mlx_lm.convert -q --q-bits 2 pack by it; no warning is told. Packed by hand (scale s, bias -s) the same
# matrix is exact. Seen, what becomes of -s, 0 and s in 500 rows of 500 scales, the share of such rows,
# and the relative error of a product with positive activations:
#     2 bits   -0.500, 0, 1   of 100% of the rows   error 2.51
#     3 bits   -0.750, 0, 1   of  90% of the rows   error 1.19
#     4 bits   -0.875, 0, 1   of  88% of the rows   error 0.59
#     the documented formula at 2 bits: -1, 0.333, 1
#     packed by hand at 2 bits: -1, 0, 1, error 2e-07
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
random = np.random.default_rng(0)
ternary = random.integers(-1, 2, (500, 256)).astype(np.float32)
scales = np.exp(random.uniform(np.log(1e-3), np.log(10), (500, 1))).astype(np.float32)  # one a row
weight = scales * ternary
x = np.abs(random.normal(size=(8, 256))).astype(np.float32)


def unpacked(packed, bits):
    """The matrix in units of its rows' scales, to three digits."""
    return np.array(mx.dequantize(*packed, group_size=64, bits=bits) / scales).round(3)


def error(product):
    exact = x.astype(np.float64) @ weight.T
    return float(np.linalg.norm(np.array(product) - exact) / np.linalg.norm(exact))


for bits, lowest, least in ((2, -0.5, 1), (3, -0.75, 0.8), (4, -0.875, 0.8)):
    model = nn.Sequential(nn.Linear(256, 500, bias=False))
    model.layers[0].weight = mx.array(weight)
    nn.quantize(model, group_size=64, bits=bits)
    layer = model.layers[0]
    matrix = unpacked((layer.weight, layer.scales, layer.biases), bits)
    cut = np.where(ternary < 0, lowest, ternary).astype(np.float32)
    share = float((matrix == cut).all(-1).mean())
    wrong = error(model(mx.array(x)))
    print(f"{bits} bits   {lowest:.3f}, 0, 1   of {share:4.0%} of the rows   error {wrong:.2f}")
    assert share >= least and wrong > 0.1

groups = ternary.reshape(-1, 64)
low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
step = (high - low) / 3
formula = (np.round((groups - low) / step) * step + low).reshape(ternary.shape).round(3)
values = [set(formula[ternary == value].tolist()) for value in (-1, 0, 1)]
assert values[0] == {-1} and values[2] == {1} and len(values[1]) == 1
print("the documented formula at 2 bits:", ", ".join(f"{v.pop():.3g}" for v in values))

codes = (ternary + 1).astype(np.uint32).reshape(500, -1, 16)  # 16 codes of 2 bits in a word
words = mx.array((codes << (2 * np.arange(16, dtype=np.uint32))).sum(-1).astype(np.uint32))
steps = mx.array(np.tile(scales, 4))
by_hand = words, steps, -steps
wrong = error(mx.quantized_matmul(mx.array(x), *by_hand, group_size=64, bits=2))
assert (unpacked(by_hand, 2) == ternary).all() and wrong < 1e-5
print(f"packed by hand at 2 bits: -1, 0, 1, error {wrong:.0g}")
PY
