#!/usr/bin/env bash
# mx.softmax in bfloat16 on a CPU: the probabilities of 65,536 tokens add up to 256.
#
# MLX 0.32.4, mlx-lm 0.32.2, Linux x86-64, CPU backend. One expects a softmax in a narrow type to round
# its results, not to get the sum wrong. Without precise=True the CPU backend adds the exponentials in the
# type of the input; in bfloat16 a sum stops growing once it is 256 times what is added. Every
# probability is too large by the same factor, so the order stays right and a threshold does not:
# mlx-lm's XTC sampler takes such a softmax of the model's logits. It is to remove the likeliest token only
# if a second one reaches the threshold as well. Seen, sums for equal logits and for logits of standard
# deviation 1, and XTC at threshold 0.1 with two tokens of probability 0.45 and 0.06:
#     float32: 1.000 and 1.000, XTC keeps the likeliest token: True
#     bfloat16: 256.000 and 12.951, XTC keeps the likeliest token: False
#     bfloat16, precise: 1.000 and 1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4'
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib.util
import sysconfig
from pathlib import Path

import mlx.core as mx

TOKENS = 65_536
# The samplers alone: the package as a whole needs transformers.
source = Path(sysconfig.get_path("purelib")) / "mlx_lm" / "sample_utils.py"
spec = importlib.util.spec_from_file_location("sample_utils", source)
samplers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(samplers)


def sums(kind, precise=False):
    """The sums of the probabilities of equal logits and of random ones."""
    return [
        float(mx.softmax(one.astype(kind), axis=-1, precise=precise).astype(mx.float32).sum())
        for one in (mx.zeros((1, TOKENS)), random)
    ]


def kept(kind):
    """Whether XTC keeps the likeliest token, where it alone is above the threshold."""
    logits = samplers.apply_xtc(peaked.astype(kind), 1.0, 0.1, [])
    return bool((logits[0, 0] > -mx.inf).item())


mx.set_default_device(mx.cpu)
mx.random.seed(0)
random = mx.random.normal((1, TOKENS))
peaked = mx.array(random)
peaked[0, :2] = mx.array([11.5, 9.5])
likely, second = mx.softmax(peaked, axis=-1)[0, :2].tolist()
assert 0.4 < likely < 0.5 and second < 0.07
seen = {kind: (sums(kind), kept(kind)) for kind in (mx.float32, mx.bfloat16)}
for kind, (added, keeps) in seen.items():
    name = str(kind).removeprefix("mlx.core.")
    print("{}: {:.3f} and {:.3f}, XTC keeps the likeliest token: {}".format(name, *added, keeps))
precise = sums(mx.bfloat16, precise=True)
print("bfloat16, precise: {:.3f} and {:.3f}".format(*precise))
assert all(abs(one - 1) < 0.01 for one in seen[mx.float32][0] + precise)
assert seen[mx.bfloat16][0][0] == 256 and seen[mx.bfloat16][0][1] > 5
assert seen[mx.float32][1] and not seen[mx.bfloat16][1]
PY
