#!/usr/bin/env bash
# mlx_lm.perplexity cannot take all of a data set: it ends in an IndexError behind the last text.
#
# mlx-lm 0.32.2, datasets 5.2.0. --num-samples -1 stands for all that is there; the loop that gathers tokens
# ends at a number of tokens, which is infinite then, and asks for one text more than there are. The
# same befalls a set with fewer tokens than num_samples * sequence_length, by default 131,072: a validation
# set of one's own. Seen, 50 texts of 20 tokens and samples of 32 tokens:
#     --num-samples 10: Perplexity: 178.735 ± 11.517
#     --num-samples 40: IndexError: list index out of range
#     --num-samples -1: IndexError: list index out of range
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.24.0' 'datasets==5.2.0'
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/cache"
"$folder/venv/bin/python" - <<'PY'
import json
import random
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
mx.random.seed(0)
random.seed(0)
words = ["<eos>", *(f"w{number}" for number in range(63))]
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "<eos>"))
fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>").save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=32, num_hidden_layers=1, intermediate_size=32, vocab_size=64,
    num_attention_heads=2, rms_norm_eps=1e-6,
)
weights = dict(tree_flatten(llama.Model(llama.ModelArgs.from_dict(config)).parameters()))
mx.save_safetensors("model/model.safetensors", weights)
Path("model/config.json").write_text(json.dumps(config))
Path("data").mkdir()
texts = [" ".join(random.choices(words[1:], k=19)) for _ in range(50)]  # and the end of sequence
Path("data/train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
seen = {}
for samples in ("10", "40", "-1"):
    options = ["--model", "model", "--data-path", "data", "--sequence-length", "32", "--num-samples", samples]
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "perplexity", *options], capture_output=True, text=True
    )
    lines = (done.stdout + done.stderr).splitlines()
    seen[samples] = next(line for line in reversed(lines) if "Error" in line or "Perplexity" in line)
    print(f"--num-samples {samples}: {seen[samples]}")
assert seen["10"].startswith("Perplexity") and "IndexError" in seen["40"] and "IndexError" in seen["-1"]
PY
