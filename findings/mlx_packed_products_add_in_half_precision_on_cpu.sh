#!/usr/bin/env bash
# A product with packed weights in bfloat16 on a CPU gives a sixth of what it should.
#
# MLX 0.32.4 (mlx-cpu), Linux x86-64. A bfloat16 model that is packed in 4 bits, as most are published,
# has activations in bfloat16. One expects mx.quantized_matmul to add in a wider type, as the product with
# the same matrix unpacked does. Its CPU kernel adds in the type of the activations: a sum of numbers of
# one sign stops growing at 256 times what is added, and a sum of either sign is off by percents. In
# float16 the same begins at 2,048. Seen, 64 rows of `width` numbers, 4 bits in groups of 64: result over
# the exact one for numbers around 1, and distance from it over its norm for normal numbers:
#     width  256: bfloat16 packed 1.019, 0.016; unpacked 1.000, 0.002; float16 packed 1.000, 0.002
#     width 4096: bfloat16 packed 0.176, 0.080; unpacked 1.000, 0.002; float16 packed 0.947, 0.008
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import numpy as np


def wide(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def products(draw, width, dtype):
    """The product with packed weights, with the same weights unpacked, and the exact one."""
    weights, x = (
        draw((rows, width), mx.random.key(rows)).astype(dtype) for rows in (64, 1)
    )
    packed = mx.quantize(weights, group_size=64, bits=4)
    unpacked = mx.dequantize(*packed, group_size=64, bits=4)
    exact = wide(x) @ wide(unpacked).T
    return wide(mx.quantized_matmul(x, *packed, group_size=64, bits=4)), wide(x @ unpacked.T), exact


def around_one(shape, key):
    return mx.random.uniform(0.5, 1.5, shape, key=key)


def normal(shape, key):
    return mx.random.normal(shape, key=key)


found = {}
for width in (256, 4096):
    for dtype in (mx.bfloat16, mx.float16):
        *both, exact = products(around_one, width, dtype)
        ratios = [float((product / exact).mean()) for product in both]
        *both, exact = products(normal, width, dtype)
        missed = [float(np.linalg.norm(product - exact) / np.linalg.norm(exact)) for product in both]
        found[width, dtype] = ratios, missed
    (packed, unpacked), (off, floor) = found[width, mx.bfloat16]
    (half, _), (half_off, _) = found[width, mx.float16]
    print(
        f"width {width:4}: bfloat16 packed {packed:.3f}, {off:.3f}; unpacked {unpacked:.3f}, {floor:.3f}; "
        f"float16 packed {half:.3f}, {half_off:.3f}"
    )
(packed, unpacked), (off, floor) = found[4096, mx.bfloat16]
assert packed < 0.2 and 0.99 < unpacked < 1.01, (packed, unpacked)
assert off > 10 * floor, (off, floor)
assert found[4096, mx.float16][0][0] < 0.96
PY
