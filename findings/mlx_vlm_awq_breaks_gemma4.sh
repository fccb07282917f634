#!/usr/bin/env bash
# mlx-vlm's AWQ turns Gemma 4 into another model before a weight is rounded, and then rounds worse than plain.
#
# mlx-vlm 0.7.10, MLX 0.32.4, CPU, tiny random models in float32. AWQ multiplies the columns of a matrix and
# divides the norm before it, so the model computes the same until it is packed. mlx-vlm divides
# post_attention_layernorm for gate_proj and up_proj. In Gemma 4 that norm is behind the attention;
# pre_feedforward_layernorm is what the MLP reads. Gemma 2 and 3 are left alone, because their norm is of a
# class of its own (1 + weight); Gemma 4's is the plain nn.RMSNorm. `mlx_vlm.convert -q --quant-method awq`
# reports success. Seen, the distance of the logits from the original ones over their norm:
#               AWQ, not packed   4 bits   AWQ, 4 bits
#     qwen3     7.7e-08           0.0056   0.0039
#     gemma4    0.013             0.0057   0.014
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-vlm==0.7.10' 'transformers==5.24.0'
cd "$folder"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PY'
import copy

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models import gemma4, qwen3
from mlx_vlm.quant import apply_awq, collect_activation_stats

mx.set_default_device(mx.cpu)
mx.random.seed(0)
TOKENS = mx.random.randint(0, 128, (4, 32))
SHAPE = dict(
    hidden_size=128, num_hidden_layers=4, intermediate_size=256, vocab_size=128, head_dim=64,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
)
QWEN = dict(model_type="qwen3", rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True)
GEMMA = dict(
    model_type="gemma4_text", global_head_dim=64, num_kv_shared_layers=0, use_double_wide_mlp=False,
    hidden_size_per_layer_input=0, layer_types=["sliding_attention"] * 3 + ["full_attention"],
)


def logits_of(model):
    return model(TOKENS).logits  # [4, 32, 128]


def packed(model):
    model = copy.deepcopy(model)
    nn.quantize(model, 64, 4, class_predicate=lambda _, module: isinstance(module, nn.Linear))
    return model


def distance(logits, reference):
    return float(mx.linalg.norm(logits - reference) / mx.linalg.norm(reference))


models = {
    "qwen3": qwen3.Model(qwen3.ModelConfig.from_dict({**SHAPE, **QWEN})),
    "gemma4": gemma4.LanguageModel(gemma4.TextConfig.from_dict({**SHAPE, **GEMMA})),
}
print("          AWQ, not packed   4 bits   AWQ, 4 bits")
seen = {}
for name, model in models.items():
    table = getattr(model, "language_model", model).model.embed_tokens
    table.weight = table.weight * mx.exp(2 * mx.random.normal((128,)))  # some channels are large
    before = logits_of(model)
    plain = distance(logits_of(packed(model)), before)
    stats = collect_activation_stats(model, lambda model=model: mx.eval(logits_of(model)))
    apply_awq(model, stats, bits=4, group_size=64)
    seen[name] = distance(logits_of(model), before), plain, distance(logits_of(packed(model)), before)
    print("{:<9} {:<17.2g} {:<8.2g} {:.2g}".format(name, *seen[name]))
assert seen["qwen3"][0] < 1e-5, "AWQ changes qwen3, too, before it is packed"
unpacked, plain, awq = seen["gemma4"]
assert unpacked > plain and awq > plain, "AWQ does not harm Gemma 4 more than packing does"
PY
