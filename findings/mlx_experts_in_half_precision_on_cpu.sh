#!/usr/bin/env bash
# A mixture of experts in bfloat16, as it is published, cannot be run on a CPU.
#
# MLX 0.32.4 (mlx-cpu), mlx-lm 0.32.2, Linux x86-64. gather_mm, by which experts are asked, has a CPU
# kernel for float32 alone; a dense model in bfloat16 runs, and so does the mixture once its experts are
# packed in 4 bits. Loading works; the first evaluation raises. Seen:
#     dense, bfloat16: runs
#     experts, float32: runs
#     experts, bfloat16: RuntimeError: [GatherMM::eval] Currently only supports float32.
#     experts, 4 bits of bfloat16: runs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import qwen3, qwen3_moe

SIZES = dict(
    hidden_size=64, num_hidden_layers=1, intermediate_size=96, num_attention_heads=4, head_dim=16,
    num_key_value_heads=2, vocab_size=64, rms_norm_eps=1e-6, rope_theta=10000.0,
    max_position_embeddings=64, tie_word_embeddings=True,
)
EXPERTS = dict(
    num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1, mlp_only_layers=[],
    moe_intermediate_size=64, norm_topk_prob=True,
)


def outcome(module, dtype, bits=None, **more):
    name = module.__name__.rpartition(".")[2]
    model = module.Model(module.ModelArgs.from_dict({"model_type": name, **SIZES, **more}))
    model.set_dtype(dtype)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    try:
        mx.eval(model(mx.arange(8)[None]))
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    return "runs"


mx.set_default_device(mx.cpu)
seen = {
    "dense, bfloat16": outcome(qwen3, mx.bfloat16),
    "experts, float32": outcome(qwen3_moe, mx.float32, **EXPERTS),
    "experts, bfloat16": outcome(qwen3_moe, mx.bfloat16, **EXPERTS),
    "experts, 4 bits of bfloat16": outcome(qwen3_moe, mx.bfloat16, bits=4, **EXPERTS),
}
for what, came in seen.items():
    print(f"{what}: {came}")
assert [came == "runs" for came in seen.values()] == [True, True, False, True]
assert "GatherMM" in seen["experts, bfloat16"]
PY
