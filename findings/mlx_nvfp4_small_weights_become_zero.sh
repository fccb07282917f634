#!/usr/bin/env bash
# Quantised to nvfp4 by nn.quantize, small weights all become zero.
#
# MLX 0.32.4, CPU backend. A group of 16 weights has a scale in E4M3, whose smallest value is 1/512, so a
# group with no weight above 6/1024 gets the scale 0. NVFP4 as NVIDIA defines it has a second, float32
# scale per tensor for this; mx.quantize takes it (global_scale), and nn.quantize and nn.QuantizedLinear,
# by which mlx_lm.convert --q-mode nvfp4 works, have no place for it outside expert layers. Weights
# of standard deviation 0.02 lose a little, those of 0.002 nearly all: a residual projection of 48 layers
# starts at 0.02 / sqrt(2 * 48). Other 4-bit modes do not care how small weights are. Seen, the relative
# error of a layer and the share of its weights that are zero:
#     deviation 0.02: affine 0.09 (0.12), mxfp4 0.12 (0.11), nvfp4 0.10 (0.06), with global_scale 0.09
#     deviation 0.002: affine 0.09 (0.12), mxfp4 0.11 (0.10), nvfp4 0.96 (0.96), with global_scale 0.09
#     deviation 0.001: affine 0.09 (0.12), mxfp4 0.11 (0.10), nvfp4 1.00 (1.00), with global_scale 0.09
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import mlx.nn as nn

mx.set_default_device(mx.cpu)
mx.random.seed(0)
normal = mx.random.normal((64, 64))
found = {}


def error(got, weight):
    return float(mx.linalg.norm(got.astype(mx.float32) - weight) / mx.linalg.norm(weight))


for deviation in (0.02, 0.002, 0.001):
    weight, told = normal * deviation, []
    for mode in ("affine", "mxfp4", "nvfp4"):
        model = nn.Sequential(nn.Linear(64, 64, bias=False))
        model.layers[0].weight = weight
        nn.quantize(model, bits=4, mode=mode)
        layer = model.layers[0]
        got = mx.dequantize(
            layer.weight, layer.scales, layer.get("biases"), layer.group_size, layer.bits, mode
        )
        found[mode, deviation] = error(got, weight), float((got == 0).mean())
        told.append("{} {:.2f} ({:.2f})".format(mode, *found[mode, deviation]))
    whole = mx.abs(weight).max()
    quantised = mx.quantize(weight, mode="nvfp4", global_scale=whole)
    scaled = error(mx.dequantize(*quantised, mode="nvfp4", global_scale=whole), weight)
    print(f"deviation {deviation}: {', '.join(told)}, with global_scale {scaled:.2f}")
    assert max(scaled, found["affine", deviation][0], found["mxfp4", deviation][0]) < 0.15
assert found["nvfp4", 0.02][0] < 0.15
assert found["nvfp4", 0.002][0] > 0.9 and found["nvfp4", 0.001] == (1.0, 1.0)
PY
