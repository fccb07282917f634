#!/usr/bin/env bash
# On CPU, mx.logsumexp loses digits as the vocabulary grows: probabilities do not add up to 1.
#
# MLX 0.32.4, NumPy 2.4.6, Linux x86-64, CPU. Normal logits with a standard deviation of 2, float32.
# mlx-lm subtracts this logsumexp to get log-probabilities. Seen:
#     vocabulary  32000: off by 1.4e-06, probabilities add up to 0.999999 (by pairs: off by 4.3e-07)
#     vocabulary 151936: off by 3.3e-05, probabilities add up to 1.000033 (by pairs: off by 2.6e-07)
#     vocabulary 262144: off by 8.6e-05, probabilities add up to 1.000086 (by pairs: off by 8.7e-08)
# So two ways to compute the same log-probabilities can be further apart than the forward passes that
# they come from.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import numpy as np

errors = {}
for vocabulary in (32_000, 151_936, 262_144):
    logits = (np.random.default_rng(0).standard_normal(vocabulary) * 2).astype(np.float32)
    exact = np.log(np.exp(logits.astype(np.float64)).sum())
    found = float(mx.logsumexp(mx.array(logits)))
    by_pairs = float(np.log(np.exp(logits).sum()))  # float32; NumPy adds by pairs
    total = np.exp(logits.astype(np.float64) - found).sum()
    errors[vocabulary] = abs(found - exact)
    print(
        f"vocabulary {vocabulary:6}: off by {abs(found - exact):.1e}, "
        f"probabilities add up to {total:.6f} (by pairs: off by {abs(by_pairs - exact):.1e})"
    )
    assert abs(by_pairs - exact) < 2e-6
assert errors[262_144] > 5e-5 > errors[151_936] > 1e-5 > errors[32_000]
PY
