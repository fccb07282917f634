#!/usr/bin/env bash
# mlx-lm's presence penalty falls on the prompt's last tokens, and forgets what is 20 tokens back.
#
# mlx-lm 0.32.2, MLX 0.32.4. In vLLM, presence_penalty and frequency_penalty look at all that was
# generated, and at nothing else. mlx-lm shows its penalties the last 20 tokens, of the prompt too. A
# model that gives every token the same logit writes, greedily, the first token that is not
# penalised. The vocabulary has 40 tokens. Seen:
#     prompt 0 to 9, no penalty:    [0, 0, 0]
#     prompt 0 to 9, penalty:       [10, 11, 12]
#     prompt 0 to 29, penalty:      [0, 1, 2]
#     prompt 39, 24 tokens, penalty: 0 to 20, and again 0 1 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models import llama
from mlx_lm.sample_utils import make_logits_processors

model = llama.Model(llama.ModelArgs(
    model_type="llama", hidden_size=32, num_hidden_layers=1, intermediate_size=32,
    num_attention_heads=1, num_key_value_heads=1, vocab_size=40, rms_norm_eps=1e-6,
    tie_word_embeddings=False,
))
model.lm_head.weight = mx.zeros((40, 32))


def written(prompt, tokens=3, **penalties):
    processors = make_logits_processors(**penalties)
    how = {"max_tokens": tokens, "logits_processors": processors}
    steps = generate_step(mx.array(list(prompt)), model, **how)
    return [token for token, _ in steps]


plain = written(range(10))
short = written(range(10), presence_penalty=1.0)
long = written(range(30), presence_penalty=1.0)
far = written([39], 24, presence_penalty=1.0)
print("prompt 0 to 9, no penalty:   ", plain)
print("prompt 0 to 9, penalty:      ", short)
print("prompt 0 to 29, penalty:     ", long)
print(f"prompt 39, 24 tokens, penalty: {far[0]} to {max(far)}, and again", *far[21:])
assert plain == [0, 0, 0] and short == [10, 11, 12] and long == [0, 1, 2]
assert far == [*range(21), 0, 1, 2]
PY
