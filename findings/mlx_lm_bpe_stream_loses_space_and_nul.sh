#!/usr/bin/env bash
# Streamed by mlx-lm, a byte-level BPE text loses its first space, and a NUL byte becomes "Ā".
#
# mlx-lm 0.32.2, tokenizers 0.23.3, transformers 5.23.0. The detokenizer's own documentation says that its
# text ends up equal to what the tokenizer decodes. For the vocabularies of GPT-2's kind (Llama 3, Qwen)
# mlx-lm picks BPEStreamingDetokenizer, which drops a space at the start. A completion is the rest of a
# prompt: "Once upon a" is continued by " time", and the two parts together read "Once upon atime";
# Python code loses one column of its first line. The byte 0 is taken for a character outside the byte
# alphabet, for 0 is false. Seen, decoded at once and streamed:
#     ' time' -> 'time'
#     '    return x' -> '   return x'
#     'a\x00b' -> 'aĀb'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'tokenizers==0.23.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

from mlx_lm.tokenizer_utils import load
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # one token per byte
fast = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
fast.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained("model")
tokenizer = load(Path("model"))
seen = {}
for text in (" time", "    return x", "a\0b"):
    ids, stream = tokenizer.encode(text), tokenizer.detokenizer
    for id_ in ids:
        stream.add_token(id_)
    stream.finalize()
    seen[tokenizer.decode(ids)] = stream.text
    print(f"{tokenizer.decode(ids)!r} -> {stream.text!r}")
assert type(stream).__name__ == "BPEStreamingDetokenizer"
assert seen == {" time": "time", "    return x": "   return x", "a\0b": "aĀb"}
PY
