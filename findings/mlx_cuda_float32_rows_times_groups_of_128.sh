#!/usr/bin/env bash
# On CUDA, float32 rows times 4-bit weights in groups of 128: a line of text works, a page fails.
#
# MLX 0.32.4 with its CUDA 13 backend, Linux x86-64, NVIDIA H200; needs an NVIDIA GPU. One expects a
# format that works to work for any number of rows. Groups of 128 are one of the three sizes that
# mx.quantize offers. For a few rows MLX has one kernel, for more another, and that one, for float32
# and groups of 128, is refused by CUDA; 2 and 3 bits end alike. Groups of 64 work, and bfloat16
# rows do. A model packed from float32 weights with --q-group-size 128 so answers a short question
# and not a long one. Seen, 4 bits, 512 numbers wide:
#     float32, groups of 64: 9 rows works, 70 rows works
#     float32, groups of 128: 9 rows works, 70 rows failed: invalid argument
#     bfloat16, groups of 128: 9 rows works, 70 rows works
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'mlx[cuda13]==0.32.4' 'mlx-cuda-13==0.32.4'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import mlx.core as mx

if not mx.cuda.is_available():
    sys.exit("this needs an NVIDIA GPU")
mx.random.seed(0)


def outcome(kind, group_size, rows):
    packed = mx.quantize(weight.astype(kind), group_size=group_size, bits=4)
    given = mx.ones((rows, 512), dtype=kind)
    try:
        mx.eval(mx.quantized_matmul(given, *packed, group_size=group_size, bits=4))
    except RuntimeError as error:
        return str(error).split(") ")[-1]
    return "works"


weight = mx.random.normal((512, 512))
seen = {}
for kind, group_size in ((mx.float32, 64), (mx.float32, 128), (mx.bfloat16, 128)):
    name = f"{str(kind).removeprefix('mlx.core.')}, groups of {group_size}"
    seen[name] = [outcome(kind, group_size, rows) for rows in (9, 70)]
    print("{}: 9 rows {}, 70 rows {}".format(name, *seen[name]))
assert "invalid argument" in seen["float32, groups of 128"].pop()
assert all(said == "works" for outcomes in seen.values() for said in outcomes)
PY
