#!/usr/bin/env bash
# In mlx-lm, top_p and min_p choose tokens before the temperature is applied, not after.
#
# mlx-lm 0.32.2, MLX 0.32.4. transformers and vLLM divide the logits by the temperature and then cut;
# mlx-lm cuts at temperature 1 and then divides. Settings copied from a model card leave other tokens:
# too many when cold, too few when hot. Five tokens with probabilities 0.5, 0.25, 0.15, 0.07, 0.03,
# and 2,000 draws. Seen, as the number of tokens that are ever drawn:
#     temperature  top_p 0.8  cut after the temperature  min_p 0.2  cut after the temperature
#     0.5          3          2                          3          2
#     1.0          3          3                          3          3
#     2.0          3          4                          3          5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_sampler

SHARES = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
mx.random.seed(0)
logprobs = mx.repeat(mx.log(mx.array(SHARES, mx.float32))[None], 2000, axis=0)


def drawn(temperature, **cut):
    """The number of tokens that are ever drawn."""
    return len(set(make_sampler(temp=temperature, **cut)(logprobs).tolist()))


print("temperature  top_p 0.8  cut after the temperature  min_p 0.2  cut after the temperature")
rows = []
for temperature in (0.5, 1.0, 2.0):
    shares = SHARES ** (1 / temperature)
    shares /= shares.sum()
    by_top_p = int((shares.cumsum() - shares < 0.8).sum())
    by_min_p = int((shares >= 0.2 * shares[0]).sum())
    rows.append((drawn(temperature, top_p=0.8), by_top_p, drawn(temperature, min_p=0.2), by_min_p))
    print("{:<12} {:<10} {:<26} {:<10} {}".format(temperature, *rows[-1]))
assert rows == [(3, 2, 3, 2), (3, 3, 3, 3), (3, 4, 3, 5)]
PY
