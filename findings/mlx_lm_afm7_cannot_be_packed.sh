#!/usr/bin/env bash
# mlx-lm can run an afm7 (Apple's foundation model), and cannot quantise it.
#
# mlx-lm 0.32.2, mlx 0.32.4. nn.quantize hands each module that can be packed the group size, the bits
# and the mode. afm7 has a layer of its own for several projections at once, whose to_quantized takes no
# mode. Its conversion ends at the first layer, at every width. With the quantiser called as older MLX
# called it, without a mode, the layer packs. Seen:
#     float32            logits (1, 3, 100)
#     4 bits             TypeError: FusedLinear.to_quantized() got an unexpected keyword argument 'mode'
#     8 bits             TypeError: FusedLinear.to_quantized() got an unexpected keyword argument 'mode'
#     one layer, no mode FusedQuantizedLinear
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models import afm7
from mlx_lm.utils import quantize_model

CONFIG = {
    "model_type": "afm7", "vocab_size": 100, "hidden_dim": 64, "num_layers": 4,
    "num_kv_reuse_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_dim_scale_factor": 2.0,
    "rope_theta": 10_000.0, "rms_norm_eps": 1e-5,
}


def model():
    return afm7.Model(afm7.ModelArgs.from_dict(CONFIG))


def packed(bits):
    try:
        quantize_model(model(), dict(CONFIG), 32, bits)
    except TypeError as error:
        return f"TypeError: {error}"
    return "packed"


shape = model()(mx.array([[1, 2, 3]])).shape
seen = [packed(4), packed(8)]
fused = next(m for _, m in model().named_modules() if type(m) is afm7.FusedLinear)
old = type(fused.to_quantized(group_size=32, bits=4)).__name__
print("float32           ", "logits", shape)
print("4 bits            ", seen[0])
print("8 bits            ", seen[1])
print("one layer, no mode", old)
refused = "TypeError: FusedLinear.to_quantized() got an unexpected keyword argument 'mode'"
assert shape == (1, 3, 100) and seen == [refused] * 2, seen
assert old == "FusedQuantizedLinear", old
PY
