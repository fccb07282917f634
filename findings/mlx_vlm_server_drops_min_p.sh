#!/usr/bin/env bash
# mlx_vlm.server takes min_p and does nothing with it: min_p 1 leaves every token.
#
# mlx-vlm 0.7.10, MLX 0.32.4, CPU, a tiny random model. min_p 1 keeps the likeliest token alone, and so does
# top_k 1. The server reads min_p from a request and carries it to the generation, where none of its
# four samplers is given it; top_p, top_k and typical_p are. Neither an error nor a warning is told.
# The recommended settings of some model cards are min_p and temperature alone, and a client that sends them
# draws from the whole vocabulary. mlx_vlm.generate obeys the same setting. Seen, over five seeds:
#     temperature 1              5 answers
#     temperature 1, top_k 1     1 answer, the greedy one
#     temperature 1, min_p 1     5 answers, those without it
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-vlm==0.7.10' 'transformers==5.24.0'
cd "$folder"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PY'
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
mx.random.seed(0)
words = ["<eos>", *(f"w{number}" for number in range(63))]
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "<eos>"))
fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
tokenizer.save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=64, num_hidden_layers=1, intermediate_size=64, vocab_size=64,
    num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=512,
    rope_theta=1e4, tie_word_embeddings=True, eos_token_id=0,
)
weights = tree_flatten(llama.Model(llama.ModelConfig.from_dict(config)).parameters())
plain = {name.removeprefix("language_model."): array for name, array in weights}
mx.save_safetensors("model/model.safetensors", plain, metadata={"format": "pt"})
Path("model/config.json").write_text(json.dumps(config))
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]


def answer(**settings):
    chat = {"model": "model", "messages": [{"role": "user", "content": "w1 w2 w3"}], "max_tokens": 6}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions",
        json.dumps({**chat, **settings}).encode(), {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def wait_until_it_listens():
    for _ in range(240):
        try:
            return socket.create_connection(("127.0.0.1", PORT)).close()
        except ConnectionRefusedError:
            time.sleep(0.5)
    raise SystemExit("mlx_vlm.server does not listen within two minutes")


command = [sys.executable, "-m", "mlx_vlm.server", "--model", "model", "--host", "127.0.0.1"]
server = subprocess.Popen([*command, "--port", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    wait_until_it_listens()
    greedy = answer(temperature=0)
    free, top_k, min_p = (
        [answer(temperature=1, seed=seed, **setting) for seed in range(1, 6)]
        for setting in ({}, {"top_k": 1}, {"min_p": 1.0})
    )
finally:
    server.terminate()
    server.wait()
print(f"temperature 1              {len(set(free))} answers")
print(f"temperature 1, top_k 1     {len(set(top_k))} answer{', the greedy one' * (set(top_k) == {greedy})}")
print(f"temperature 1, min_p 1     {len(set(min_p))} answers{', those without it' * (min_p == free)}")
assert len(set(free)) > 1 and set(top_k) == {greedy}, "top_k 1 is not the greedy answer"
assert min_p == free, "min_p changes an answer"
PY
