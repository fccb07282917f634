#!/usr/bin/env bash
# A configuration that transformers 5 wrote loses its rotary base in mlx-lm's llama.
#
# mlx-lm 0.32.2, transformers 5.23.0. transformers 5 writes the base into rope_parameters and no longer
# beside it; mlx-lm's llama reads only what stands beside it, and takes its default without a word. Seen:
#     transformers wrote: {'rope_theta': 500000.0, 'rope_type': 'default'}
#     mlx-lm rotates by:  10000.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from mlx_lm.models.llama import ModelArgs
from transformers import LlamaConfig

config = LlamaConfig(rope_theta=500_000.0).to_dict()
base = ModelArgs.from_dict(config).rope_theta
print("transformers wrote:", dict(sorted(config["rope_parameters"].items())))
print("mlx-lm rotates by: ", float(base))
assert config["rope_parameters"]["rope_theta"] == 500_000 and "rope_theta" not in config
assert base == 10_000
PY
