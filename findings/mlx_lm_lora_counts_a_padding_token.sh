#!/usr/bin/env bash
# mlx_lm.lora counts one padding token of each example: its loss and perplexity are not those of the data.
#
# mlx-lm 0.32.2, CPU, a tiny llama that writes one word after another (its head is a permutation). The
# loss's mask ends with "steps <= lengths", one target too late: the first padding after the end of a text,
# which is token 0, is learned and counted. Nobody can predict it. In short examples it is most of the
# loss, and of the gradient: with --mask-prompt and an answer of one word, a third of what is learned
# is token 0 after the end. A text that fills --max-seq-length has none. A pull request that mends it
# (mlx-lm 1697) was closed. Seen, mlx_lm.lora --test, and the same from the model's logits in NumPy:
#     whole text    mlx_lm.lora: Test loss 1.156, Test ppl 3.176.   NumPy: loss 0.024, ppl 1.024
#     answer alone  mlx_lm.lora: Test loss 1.910, Test ppl 6.752.   NumPy: loss 0.024, ppl 1.024
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PY'
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
words = "other the capital is Paris <eos> more words".split()
size = len(words)
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "other"))
fast.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>")
tokenizer.chat_template = (
    "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}"
)
tokenizer.save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=size, num_hidden_layers=1, intermediate_size=2, vocab_size=size,
    num_attention_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=False,
)
model = llama.Model(llama.ModelArgs.from_dict(config))
weights = dict(tree_flatten(model.parameters()))
weights["model.embed_tokens.weight"] = mx.eye(size)
weights["lm_head.weight"] = 2 * mx.roll(mx.eye(size), 1, axis=0)  # row i + 1 answers to word i
for name in ("self_attn.o_proj", "mlp.down_proj"):  # the layer adds nothing
    weights[f"model.layers.0.{name}.weight"] *= 0
mx.save_safetensors("model/model.safetensors", weights)
Path("model/config.json").write_text(json.dumps(config))


def loss(first):
    """Of the tokens of the text and its end, from the one at place first on."""
    ids = tokenizer.encode("the capital is Paris <eos>")
    logits = np.array(load("model")[0](mx.array(ids)[None])[0], np.float64)  # (tokens, words)
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -float(np.mean([rows[place - 1, ids[place]] for place in range(first, len(ids))]))


SHAPES = {
    "whole text  ": ({"text": "the capital is Paris"}, [], 1),
    "answer alone": ({"prompt": "the capital is", "completion": "Paris"}, ["--mask-prompt"], 3),
}
for name, (example, options, first) in SHAPES.items():
    Path("data").mkdir(exist_ok=True)
    Path("data/test.jsonl").write_text("\n".join([json.dumps(example)] * 4))
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "lora", "--model", "model", "--data", "data", "--test",
         "--adapter-path", "", "--batch-size", "2", *options],
        capture_output=True, text=True, check=True,
    )
    told = re.search(r"Test loss ([\d.]+), Test ppl [\d.]+\.", done.stdout)
    own = loss(first)
    print(f"{name}  mlx_lm.lora: {told[0]}   NumPy: loss {own:.3f}, ppl {math.exp(own):.3f}")
    targets = 5 - first  # and a padding, as likely as any word that does not follow
    padded = (own * targets + own + 2 * math.sqrt(size)) / (targets + 1)
    assert abs(float(told[1]) - padded) < 2e-3 and own < 0.1, (told[0], padded)
PY
