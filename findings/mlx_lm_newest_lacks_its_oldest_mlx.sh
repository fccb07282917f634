#!/usr/bin/env bash
# mlx-lm 0.32.2 says that mlx 0.32.2 is enough, and with that no model with quantised experts runs.
#
# mlx-lm 0.32.1 and 0.32.2 ask for `mlx>=0.32.2`; their quantised experts give mx.gather_qmm a
# `global_scale`, which mlx takes since 0.32.3. An environment with mlx 0.32.2 is left as it is when
# mlx-lm is upgraded, and dense models go on working. Seen on Linux, CPU, with mlx-lm 0.32.2:
#     mlx 0.32.2, required >=0.32.2: dense llama ok, float experts ok, packed experts TypeError
#     mlx 0.32.4, required >=0.32.2: dense llama ok, float experts ok, packed experts ok
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat >"$folder/packed.py" <<'PY'
from importlib.metadata import requires, version

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.mixtral import Model, ModelArgs
from mlx_lm.models.llama import Model as Llama, ModelArgs as LlamaArgs

mx.set_default_device(mx.cpu)
sizes = dict(
    hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
    num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=80)
ids = mx.array([[5, 6, 7, 8]])


def runs(model):
    try:
        mx.eval(model(ids))
        return "ok"
    except TypeError as error:
        assert "gather_qmm(): incompatible function arguments" in str(error), error
        return "TypeError"


dense = Llama(LlamaArgs(model_type="llama", head_dim=16, **sizes))
nn.quantize(dense, group_size=32, bits=4)
experts = Model(ModelArgs(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, **sizes))
stored = runs(experts)
nn.quantize(experts, group_size=32, bits=4)
floor = next(it for it in requires("mlx-lm") if it.startswith("mlx>"))
said = (runs(dense), stored, runs(experts))
print(f"mlx {version('mlx')}, required {floor[3:].partition(';')[0]}: "
      "dense llama {}, float experts {}, packed experts {}".format(*said))
with_oldest = version("mlx") == "0.32.2"
assert floor.startswith("mlx>=0.32.2") and said == ("ok", "ok", "TypeError" if with_oldest else "ok"), said
PY
for release in 0.32.2 0.32.4; do
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "mlx[cpu]==$release" 'mlx-lm==0.32.2' 'transformers==5.23.0'
  "$folder/venv/bin/python" "$folder/packed.py"
done
