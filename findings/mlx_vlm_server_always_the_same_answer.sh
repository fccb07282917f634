#!/usr/bin/env bash
# mlx_vlm.server at temperature 1 gives the same answer each time it is asked the same.
#
# mlx-vlm 0.7.10, MLX 0.32.4, CPU, a tiny random model. One expects a request without a seed to draw anew,
# as in mlx_lm.server, vLLM and the API of OpenAI. The server takes the seed 0 for it, and draws the token
# of each place from the seed and the place alone. "Regenerate" shows the same text, and a vote over
# several answers is one vote. With typical_p (top_n_sigma, p_less) another sampler is taken, which draws
# anew and ignores a seed that is given. Also known as mlx-vlm issue 1818. Seen:
#     five times temperature 1:                   1 answer
#     five seeds:                                 5 answers
#     five times with seed 7:                     1 answer
#     five times with seed 7 and typical_p 0.99:  5 answers
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
    seen = {
        "five times temperature 1:": [answer(temperature=1) for _ in range(5)],
        "five seeds:": [answer(temperature=1, seed=seed) for seed in range(1, 6)],
        "five times with seed 7:": [answer(temperature=1, seed=7) for _ in range(5)],
        "five times with seed 7 and typical_p 0.99:": [
            answer(temperature=1, seed=7, typical_p=0.99) for _ in range(5)
        ],
    }
finally:
    server.terminate()
    server.wait()
numbers = {}
for name, answers in seen.items():
    numbers[name] = len(set(answers))
    print(f"{name:<43} {numbers[name]} answer{'s' * (numbers[name] > 1)}")
unseeded, seeds, seeded, typical = numbers.values()
assert seeds > 1, "five seeds give one answer, so nothing is drawn"
assert (unseeded, seeded) == (1, 1) and typical > 1, "a request without a seed draws anew, or typical_p obeys it"
PY
