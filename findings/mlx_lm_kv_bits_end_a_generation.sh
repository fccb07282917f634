#!/usr/bin/env bash
# A quantised KV cache ends a generation after 5,000 tokens where heads are 96 wide.
#
# MLX 0.32.4, mlx-lm 0.32.2, Linux x86-64, CPU. generate_step(kv_bits=8) starts to quantise at 5,000
# cached tokens, in groups of 64. A head of 96 (Phi-3-mini's) or 80 (Phi-2's) cannot be cut into those:
# nothing is said at the start, tokens come, and the call that reaches 5,000 raises. Below that length
# kv_bits has changed nothing. Seen, with a prompt of 4,990 tokens and 40 tokens asked for:
#     heads 64 wide: 40 tokens, quantised
#     heads 96 wide: ValueError after 9 tokens
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models import phi3
from mlx_lm.models.cache import make_prompt_cache

PROMPT, WANTED = 4990, 40


def generated(width):
    mx.random.seed(0)
    config = dict(
        model_type="phi3", hidden_size=2 * width, num_hidden_layers=1, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=2, vocab_size=64, rms_norm_eps=1e-6,
    )
    model = phi3.Model(phi3.ModelArgs.from_dict(config))
    cache, tokens, raised = make_prompt_cache(model), 0, None
    try:
        prompt = mx.arange(PROMPT) % 64
        for _ in generate_step(prompt, model, max_tokens=WANTED, kv_bits=8, prompt_cache=cache):
            tokens += 1
    except ValueError as error:
        raised = type(error).__name__
    return tokens, raised, type(cache[0]).__name__


whole, broken = generated(64), generated(96)
print(f"heads 64 wide: {whole[0]} tokens, {'quantised' if 'Quantized' in whole[2] else whole[2]}")
print(f"heads 96 wide: {broken[1]} after {broken[0]} tokens")
assert whole == (WANTED, None, "QuantizedKVCache")
assert broken[1] == "ValueError" and 0 < broken[0] < WANTED
PY
