#!/usr/bin/env bash
# transformers 5 does not load a tokenizer, because of the number of attention heads in config.json.
#
# transformers 5.23.0, mlx-lm 0.32.2. AutoTokenizer reads config.json to choose a class, and
# transformers 5 checks what it reads: for llama, gemma2 and gemma3_text, hidden_size has to be a multiple
# of num_attention_heads. Where head_dim is given, as in models with pruned heads, it need not be, and
# nothing of it concerns a tokenizer. mlx-lm loads and runs such a model, and mlx_lm.load fails, in its
# tokenizer. The same numbers under qwen3 or mistral are taken. Seen:
#     the model: logits of shape (1, 2, 2)
#     the tokenizer: The hidden size (100) is not a multiple of the number of attention heads (3).
#     the tokenizer, called qwen3: ab -> [0, 1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'tokenizers==0.23.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.utils import load, load_model
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

config = dict(
    model_type="llama", hidden_size=100, num_attention_heads=3, num_key_value_heads=3, head_dim=32,
    num_hidden_layers=1, intermediate_size=64, vocab_size=2, rms_norm_eps=1e-6,
)
fast = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained("model")
Path("model/config.json").write_text(json.dumps(config))
model = llama.Model(llama.ModelArgs.from_dict(config))
mx.save_safetensors("model/model.safetensors", dict(tree_flatten(model.parameters())))

shape = load_model(Path("model"))[0](mx.array([[0, 1]])).shape
print("the model: logits of shape", shape)
told = "loaded"
try:
    load("model")
except Exception as error:
    told = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
print("the tokenizer:", told)
Path("model/config.json").write_text(json.dumps({**config, "model_type": "qwen3"}))
ids = AutoTokenizer.from_pretrained("model").encode("ab")
print("the tokenizer, called qwen3: ab ->", ids)
assert shape == (1, 2, 2) and ids == [0, 1]
assert told == "The hidden size (100) is not a multiple of the number of attention heads (3)."
PY
