#!/usr/bin/env bash
# With top_logprobs, mlx_lm.server reports the log-probability of a token that was not generated.
#
# mlx-lm 0.32.2, MLX 0.32.4, openai 3.57.0. In the answer of the OpenAI protocol, content[i].logprob is
# that of the token generated at i, and top_logprobs lists the likeliest, best first. The server
# fills content[i] from the first entry of a list of the likeliest, which is not sorted. Asked for one,
# it reports the greedy token, not the sampled one; asked for more, any of them. A perplexity or a
# confidence computed from these is of another text. logprobs=True alone is right. A random model,
# 40 tokens sampled at temperature 1. Seen:
#     logprobs=True: 40 of 40 are of the generated token
#     top_logprobs=1: 24 of 40 are of the generated token
#     top_logprobs=5: 2 of 40 are of the generated token
#     top_logprobs=5, best first: 0 of 40
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
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

LETTERS, TOKENS = [chr(ord("a") + number) for number in range(26)], 40

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
    client = OpenAI(base_url=f"http://{at}/v1", api_key="none")

    def asked(**more):
        """How many entries are of the generated token, and how many lists are best first."""
        choice = client.chat.completions.create(
            model="default_model", messages=[{"role": "user", "content": "abc"}],
            max_tokens=TOKENS, temperature=1.0, seed=1, logprobs=True, **more,
        ).choices[0]
        entries = choice.logprobs.content
        assert len(entries) == len(choice.message.content) == TOKENS
        own = sum(LETTERS[entry.id] == letter for entry, letter in zip(entries, choice.message.content))
        tops = [[top.logprob for top in entry.top_logprobs or []] for entry in entries]
        return own, sum(top == sorted(top, reverse=True) for top in tops)

    alone, one, five = asked(), asked(top_logprobs=1), asked(top_logprobs=5)
finally:
    server.terminate()
    server.wait()
for name, (own, _) in {"logprobs=True": alone, "top_logprobs=1": one, "top_logprobs=5": five}.items():
    print(f"{name}: {own} of {TOKENS} are of the generated token")
print(f"top_logprobs=5, best first: {five[1]} of {TOKENS}")
assert alone[0] == TOKENS and one[0] < TOKENS and max(five) < TOKENS / 2
PY
