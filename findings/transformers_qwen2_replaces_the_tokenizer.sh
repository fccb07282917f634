#!/usr/bin/env bash
# A tokenizer.json beside a config.json of qwen2 is given Qwen's splitting and NFC, whatever it says.
#
# transformers 5.23.0, tokenizers 0.23.3. A model that was trained further from Qwen 2 with another
# tokenizer has model_type qwen2 and a tokenizer.json of its own. For that type AutoTokenizer makes a
# Qwen2Tokenizer, also if tokenizer_config.json names another class: it takes the vocabulary and the
# merges from the file, and puts Qwen's pre-tokenizer (one digit at a time) and NFC in the place of
# the file's. Under llama, and under qwen3, the file is obeyed. Seen, for "12345" and for "e" with a
# combining accent:
#     tokenizers:          123 4 5   | e Ì ģ
#     AutoTokenizer llama: 123 4 5   | e Ì ģ
#     AutoTokenizer qwen3: 123 4 5   | e Ì ģ
#     AutoTokenizer qwen2: 1 2 3 4 5 | Ã©
# The prompt has other tokens than the ones that the model was trained on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.23.0' 'tokenizers==0.23.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXTS = "12345", "e\u0301"
pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["12", "123", "Ã©"]
merges = [("1", "2"), ("12", "3"), ("Ã", "©")]
fast = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
fast.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
])
fast.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained("model")

seen = {"tokenizers": [" ".join(fast.encode(text).tokens) for text in TEXTS]}
for kind in ("llama", "qwen3", "qwen2"):
    Path("model/config.json").write_text(json.dumps({"model_type": kind}))
    auto = AutoTokenizer.from_pretrained("model")
    seen[f"AutoTokenizer {kind}"] = [
        " ".join(auto.convert_ids_to_tokens(auto.encode(text, add_special_tokens=False)))
        for text in TEXTS
    ]
for name, (digits, accent) in seen.items():
    print(f"{name + ':':20} {digits:9} | {accent}")
assert set(map(tuple, list(seen.values())[:3])) == {("123 4 5", "e Ì ģ")}
assert seen["AutoTokenizer qwen2"] == ["1 2 3 4 5", "Ã©"]
PY
