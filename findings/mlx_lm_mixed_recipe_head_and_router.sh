#!/usr/bin/env bash
# A mixed recipe of mlx_lm.convert gives its fewest bits to a tied output head and to the router.
#
# mlx-lm 0.32.2, MLX 0.32.4. --quant-predicate mixed_2_6 is meant to spend 6 bits where errors hurt most,
# as llama.cpp's K quants do, among them the output head. It knows the head by the name lm_head. Where
# the head is the embedding table (tie_word_embeddings, as in small Qwen3 and Llama 3.2), that name
# is nowhere, and the last matrix product of the model runs on 2 bits. A recipe also replaces what a model
# says of its own layers: qwen3_moe keeps the router, which picks the experts, at 8 bits in a plain
# 4-bit model, and has it at 2 with the recipe. Nothing is said. Seen:
#     qwen3, untied, mixed_2_6: head 6 bits
#     qwen3, tied, mixed_2_6: head 2 bits
#     qwen3_moe, plain 4 bits: router {8} bits, other layers {4}
#     qwen3_moe, mixed_2_6: router {2} bits, other layers {2, 6}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib import import_module

from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import quantize_model

SIZES = dict(
    hidden_size=128, num_hidden_layers=8, intermediate_size=128, num_attention_heads=2, head_dim=64,
    num_key_value_heads=2, vocab_size=256, rms_norm_eps=1e-6, rope_theta=10000.0,
    max_position_embeddings=64, num_experts=8, num_experts_per_tok=2, decoder_sparse_step=1,
    mlp_only_layers=[], moe_intermediate_size=128, norm_topk_prob=True,
)


def bits(model_type, recipe, tied):
    """Bits per layer, as mlx_lm.convert chooses them."""
    module = import_module(f"mlx_lm.models.{model_type}")
    config = {"model_type": model_type, "tie_word_embeddings": tied, **SIZES}
    model = module.Model(module.ModelArgs.from_dict(config))
    chosen = mixed_quant_predicate_builder(recipe, model) if recipe else None
    model, _ = quantize_model(model, config, 64, 4, quant_predicate=chosen)
    return {path: layer.bits for path, layer in model.named_modules() if hasattr(layer, "bits")}


untied = bits("qwen3", "mixed_2_6", False)["lm_head"]
tied = bits("qwen3", "mixed_2_6", True)["model.embed_tokens"]
print(f"qwen3, untied, mixed_2_6: head {untied} bits")
print(f"qwen3, tied, mixed_2_6: head {tied} bits")
routers = []
for name, recipe in {"plain 4 bits": None, "mixed_2_6": "mixed_2_6"}.items():
    layers = bits("qwen3_moe", recipe, False)
    router = {count for path, count in layers.items() if path.endswith("mlp.gate")}
    others = {count for path, count in layers.items() if not path.endswith("mlp.gate")}
    print(f"qwen3_moe, {name}: router {router} bits, other layers {others}")
    routers.append((router, others))
assert (untied, tied) == (6, 2)
assert routers == [({8}, {4}), ({2}, {2, 6})]
PY
