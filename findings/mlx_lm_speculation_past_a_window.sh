#!/usr/bin/env bash
# Greedy decoding with a draft model gives other tokens once a sliding window is full.
#
# MLX 0.32.4, mlx-lm 0.32.2, Linux x86-64, CPU, float32, a random Gemma 3 with a window of 8. Rejected
# drafts are taken back with trim_prompt_cache, which does nothing once a rotating cache has wrapped;
# nobody reads its answer, and whether the cache can be trimmed is asked once, before the prompt. With
# an unlimited window the tokens are the same. Seen:
#     window    8: 1 of 12 tokens before the first other one
#     window 4096: 12 of 12 tokens before the first other one
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.models import gemma3_text


def build(window, seed):
    mx.random.seed(seed)
    args = gemma3_text.ModelArgs(
        model_type="gemma3_text", hidden_size=64, num_hidden_layers=4, intermediate_size=96,
        num_attention_heads=4, head_dim=16, num_key_value_heads=2, vocab_size=320,
        sliding_window=window, sliding_window_pattern=2,
    )
    return gemma3_text.Model(args)


agree = {}
for window in (8, 4096):
    model, draft = build(window, seed=0), build(window, seed=1)
    prompt = mx.arange(13)
    plain = [token for token, _ in generate_step(prompt, model, max_tokens=12)]
    drafted = [t for t, *_ in speculative_generate_step(prompt, model, draft, max_tokens=12)]
    agree[window] = [a == b for a, b in zip(plain, drafted)] + [False]
    print(f"window {window:4}: {agree[window].index(False)} of 12 tokens before the first other one")
assert agree[8].index(False) < 12 and agree[4096].index(False) == 12
PY
