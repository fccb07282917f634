#!/usr/bin/env bash
# transformers turns the positions of a DBRX by a base of 10,000, whatever its config.json says.
#
# transformers 5.24.0 with PyTorch 2.14.1. A DBRX states its rotary base in attn_config, where
# mlx-lm and llama.cpp's converter read it. transformers keeps the number there, too, but its layers
# turn by rope_parameters of the whole configuration, which config.json does not have: they get the
# default. Nothing is told, and the logits differ. A rope_theta beside attn_config is read. Seen:
#     attn_config.rope_theta   at the top   second frequency is of base
#     500000                   -            10000
#     500000                   500000       500000
#     1000                     -            10000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.24.0' 'torch==2.14.1'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from transformers import DbrxConfig
from transformers.models.dbrx.modeling_dbrx import DbrxForCausalLM

WIDTH, HEADS = 64, 4


def base_of(in_attention, **at_the_top):
    attention = {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": in_attention}
    config = DbrxConfig(
        d_model=WIDTH, n_heads=HEADS, n_layers=1, vocab_size=100, attn_config=attention,
        ffn_config={"hidden_size": WIDTH, "ffn_hidden_size": 96}, **at_the_top,
    )
    model = DbrxForCausalLM(config)
    (frequencies,) = [each for name, each in model.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    return round(float(frequencies[1]) ** -(WIDTH / HEADS / 2))


seen = [base_of(500_000.0), base_of(500_000.0, rope_theta=500_000.0), base_of(1000.0)]
print("attn_config.rope_theta   at the top   second frequency is of base")
for row in zip((500_000, 500_000, 1000), ("-", "500000", "-"), seen, strict=True):
    print("{:<24} {:<12} {}".format(*row))
near = [abs(found / wanted - 1) < 1e-3 for found, wanted in zip(seen, (10_000, 500_000, 10_000), strict=True)]
assert all(near), f"other bases: {seen}"
PY
