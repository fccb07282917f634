#!/usr/bin/env bash
# A whole Llama 4 computes no logits for a text in transformers 5.24.0, and did in 5.23.0.
#
# PyTorch 2.14.1. Llama4ForConditionalGeneration is what a published Llama 4 is loaded as. Given token
# ids and no picture it ends after its last layer, because it looks for a field that the output of
# its text model does not have. The text model alone, Llama4ForCausalLM, works in both. Seen:
#     transformers   text model alone   whole model
#     5.23.0         (1, 3, 100)        (1, 3, 100)
#     5.24.0         (1, 3, 100)        AttributeError: 'MoeCausalLMOutputWithPast' object has no attribute 'image_outputs'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/both.py" <<'PY'
import torch
import transformers

TEXT = {
    "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16,
    "intermediate_size": 96, "intermediate_size_mlp": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1,
}
PICTURES = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 28, "patch_size": 14, "vision_output_dim": 64, "projector_input_dim": 32,
    "projector_output_dim": 32,
}


def logits_of(model):
    try:
        with torch.no_grad():
            return tuple(model.eval()(torch.tensor([[5, 6, 7]])).logits.shape)
    except AttributeError as error:
        return f"AttributeError: {error}"


alone = transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**TEXT))
config = transformers.Llama4Config(text_config=TEXT, vision_config=PICTURES)
whole = transformers.Llama4ForConditionalGeneration(config)
print(f"{transformers.__version__}         {logits_of(alone)}        {logits_of(whole)}")
PY
cd "$folder"
echo "transformers   text model alone   whole model"
for release in 5.23.0 5.24.0; do
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==$release" 'torch==2.14.1'
  "$folder/venv/bin/python" both.py 2>/dev/null | tee -a seen
done
diff seen - <<'SEEN'
5.23.0         (1, 3, 100)        (1, 3, 100)
5.24.0         (1, 3, 100)        AttributeError: 'MoeCausalLMOutputWithPast' object has no attribute 'image_outputs'
SEEN
