#!/usr/bin/env bash
# mlx_lm.fuse of a DoRA adapter writes the adapted weights in float32, into a model in bfloat16.
#
# mlx-lm 0.32.2, MLX 0.32.4. A fused LoRA keeps the dtype of the model. DoRA's fusion multiplies by the
# magnitudes, which are float32, and the product stays so: the file has two dtypes, these weights take
# twice the space, and what they meet at each later pass is computed in float32. Seen:
#     fused lora: {'BF16': 21}
#     fused dora: {'BF16': 7, 'F32': 14}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

fast = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
    num_attention_heads=2, num_key_value_heads=2, vocab_size=2, rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
Path("model/config.json").write_text(json.dumps(config))
model = llama.Model(llama.ModelArgs.from_dict(config))
model.set_dtype(mx.bfloat16)
mx.save_safetensors("model/model.safetensors", dict(tree_flatten(model.parameters())))

seen = {}
for kind in ("lora", "dora"):
    parameters = {"rank": 4, "scale": 10.0, "dropout": 0.0}
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    model.freeze()
    linear_to_lora_layers(model, 2, parameters, use_dora=kind == "dora")
    Path(kind).mkdir()
    trained = dict(tree_flatten(model.trainable_parameters()))
    mx.save_safetensors(f"{kind}/adapters.safetensors", trained)
    settings = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": parameters}
    Path(kind, "adapter_config.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "mlx_lm", "fuse", "--model", "model"]
    command += ["--adapter-path", kind, "--save-path", f"fused_{kind}"]
    subprocess.run(command, check=True, capture_output=True)
    with open(f"fused_{kind}/model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    seen[kind] = dict(sorted(Counter(tensor["dtype"] for tensor in header.values()).items()))
    print(f"fused {kind}:", seen[kind])
assert set(seen["lora"]) == {"BF16"} and seen["dora"]["F32"] == 14
PY
