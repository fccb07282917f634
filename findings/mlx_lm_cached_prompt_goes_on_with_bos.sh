#!/usr/bin/env bash
# A prompt that mlx_lm.cache_prompt stored goes on with a second beginning-of-sequence token.
#
# mlx-lm 0.32.2, CPU, a tiny random llama whose tokenizer adds <s>, as those of Llama's, Mistral's and
# Gemma's base models do. mlx_lm.generate takes --prompt for what follows the stored text. With a chat
# template it cuts the template's beginning off; without one it encodes the text as if nothing stood
# before it, and the model reads the start of another document. Where a prefix is stored to save time,
# answers change, and no message says why. Seen, greedy:
#     in one prompt, 'a b c d e f':        z d n o
#     'a b c d' stored, 'e f' after it:    c b s d s g x j
#     in one prompt, 'a b c d <s> e f':    c b s d s g x j
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PY'
import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
mx.random.seed(1)
words = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "a"))
fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
fast.post_processor = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", words.index("<s>"))]
)
PreTrainedTokenizerFast(
    tokenizer_object=fast, bos_token="<s>", eos_token="</s>"
).save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
    vocab_size=len(words), num_attention_heads=4, rms_norm_eps=1e-6, tie_word_embeddings=False,
)
model = llama.Model(llama.ModelArgs.from_dict(config))
weights = dict(tree_flatten(model.parameters()))
for name, weight in weights.items():  # so that a token depends much on those before it
    weights[name] = weight * (8 if "lm_head" in name else 4 if "attn" in name else 1)
mx.save_safetensors("model/model.safetensors", weights)
Path("model/config.json").write_text(json.dumps(config))


def ran(*words):
    command = [sys.executable, "-m", "mlx_lm", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def answer(*options):
    return ran("generate", *options, "--max-tokens", "8").split("==========")[1].strip()


ran("cache_prompt", "--model", "model", "--prompt", "a b c d", "--prompt-cache-file", "c.safetensors")
whole = answer("--model", "model", "--prompt", "a b c d e f")
stored = answer("--prompt-cache-file", "c.safetensors", "--prompt", "e f")
twice = answer("--model", "model", "--prompt", "a b c d <s> e f")
print("in one prompt, 'a b c d e f':       ", whole)
print("'a b c d' stored, 'e f' after it:   ", stored)
print("in one prompt, 'a b c d <s> e f':   ", twice)
assert stored == twice != whole
PY
