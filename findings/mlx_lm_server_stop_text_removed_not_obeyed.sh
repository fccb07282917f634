#!/usr/bin/env bash
# mlx_lm.server deletes a stop string from the answer and goes on writing.
#
# mlx-lm 0.32.2, MLX 0.32.4, openai 3.57.0. A client that asks for stop="\n\n" expects the answer to end
# there. The server stops by tokens: at those that the stop string alone is cut into. It also removes
# the stop string from the text, wherever that comes from. Where a model writes ".\n\n" as one token, as
# the vocabularies of Llama 3 and Qwen have, the tokens never match: the blank line is removed, the
# next question follows, and the client cannot see where to cut. The tiny model below always
# writes "42.\n\nQxy". Seen:
#     no stop:       '42.\n\nQxy', 7 tokens
#     stop="2":      '4', 2 tokens
#     stop="\n\n":   '42.Qxy', 7 tokens
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'openai==3.57.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from openai import OpenAI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PIECES = ["<end>", "4", "2", ".", "Ċ", "ĊĊ", ".ĊĊ", "Q", "A", "x", "y"]  # Ċ: a line feed
STORY, SIZE = ["A", "4", "2", ".ĊĊ", "Q", "x", "y", "<end>"], 64

vocabulary = {piece: number for number, piece in enumerate(PIECES)}
fast = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ"), (".", "ĊĊ")]))
fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
fast.decoder = decoders.ByteLevel()
fast.add_special_tokens(["<end>"])
fast.save("tokenizer.json")
chosen = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
json.dump(chosen, open("tokenizer_config.json", "w"))

config = dict(
    model_type="llama", hidden_size=SIZE, num_hidden_layers=1, intermediate_size=SIZE,
    num_attention_heads=1, num_key_value_heads=1, vocab_size=SIZE, rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
json.dump(config, open("config.json", "w"))
weights = dict(tree_flatten(llama.Model(llama.ModelArgs.from_dict(config)).parameters()))
for silent in ("self_attn.o_proj", "mlp.down_proj"):  # the next token depends on the last one alone
    weights[f"model.layers.0.{silent}.weight"] = mx.zeros((SIZE, SIZE))
weights["model.embed_tokens.weight"], head = mx.eye(SIZE), mx.zeros((SIZE, SIZE))
for before, after in zip(STORY, STORY[1:]):
    head[vocabulary[after], vocabulary[before]] = 1.0
mx.save_safetensors("model.safetensors", {**weights, "lm_head.weight": head})

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    at = f"127.0.0.1:{free.getsockname()[1]}"
command = [sys.executable, "-m", "mlx_lm", "server", "--model", ".", "--port", at.split(":")[1]]
server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
try:
    for _ in range(240):
        try:
            urlopen(f"http://{at}/health")
            break
        except OSError:
            time.sleep(0.5)
    client, seen = OpenAI(base_url=f"http://{at}/v1", api_key="none"), []
    for stop in (None, "2", "\n\n"):
        answer = client.completions.create(model="default_model", prompt="A", stop=stop)
        seen.append((answer.choices[0].text, answer.usage.completion_tokens))
        print(f"stop={stop!r}: {seen[-1][0]!r}, {seen[-1][1]} tokens")
finally:
    server.terminate()
    server.wait()
assert seen == [("42.\n\nQxy", 7), ("4", 2), ("42.Qxy", 7)]
PY
