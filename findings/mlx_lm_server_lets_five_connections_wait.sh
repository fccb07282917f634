#!/usr/bin/env bash
# Of clients that come to mlx_lm.server at once, all but a few wait for whole seconds at its door.
#
# mlx-lm 0.32.2, MLX 0.32.4. The server leaves the queue of its socket at Python's default of five.
# A connection that finds it full is dropped, and its client tries again after 1, 3, 7 s (Linux), or is
# reset when it sends. That looks like a slow model or a dead server: the time to the first token jumps
# by whole seconds, although the model answers in milliseconds. With a queue of 128 nobody waits.
# A random model, 64 clients at once ask for one token, five times. Seen (how many waited varies):
#     queue of 5: 75 of 320 requests took a second or more, slowest 1.3 s, 162 reset
#     queue of 128: 0 of 320 requests took a second or more, slowest 0.1 s, 0 reset
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from urllib.request import Request, urlopen

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

LETTERS = [chr(ord("a") + number) for number in range(26)]
CLIENTS, ROUNDS, LONG = 64, 5, 1.0
SERVE = """
import socketserver, sys
socketserver.TCPServer.request_queue_size = int(sys.argv.pop(1))
from mlx_lm.server import main
main()
"""

fast = Tokenizer(models.BPE({letter: number for number, letter in enumerate(LETTERS)}, []))
fast.decoder = decoders.Fuse()
PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(".")
config = dict(
    model_type="llama", hidden_size=32, num_hidden_layers=1, intermediate_size=32,
    num_attention_heads=1, num_key_value_heads=1, vocab_size=26, rms_norm_eps=1e-6,
    tie_word_embeddings=True,
)
json.dump(config, open("config.json", "w"))
mx.random.seed(0)
model = llama.Model(llama.ModelArgs.from_dict(config))
mx.save_safetensors("model.safetensors", dict(tree_flatten(model.parameters())))


def times(queue):
    """Seconds of each request, and how many were reset."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, body = f"http://127.0.0.1:{port}", json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    command = [sys.executable, "-c", SERVE, str(queue), "--model", ".", "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    barrier = Barrier(CLIENTS)

    def ask(_):
        barrier.wait()
        began = time.perf_counter()
        try:
            urlopen(Request(f"{url}/v1/completions", body)).read()
        except OSError:
            return None
        return time.perf_counter() - began

    try:
        for _ in range(240):
            try:
                urlopen(f"{url}/health")
                break
            except OSError:
                time.sleep(0.5)
        with ThreadPoolExecutor(CLIENTS) as clients:
            took = [one for _ in range(ROUNDS) for one in clients.map(ask, range(CLIENTS))]
    finally:
        server.terminate()
        server.wait()
    answered = [one for one in took if one is not None]
    return answered, len(took) - len(answered)


slow = {}
for queue in (5, 128):
    answered, reset = times(queue)
    slow[queue] = sum(one >= LONG for one in answered) + reset
    print(f"queue of {queue}: {slow[queue] - reset} of {CLIENTS * ROUNDS} requests took a second "
          f"or more, slowest {max(answered):.1f} s, {reset} reset")
assert slow[5] > 5 * max(1, slow[128]), "the queue makes no difference now"
PY
