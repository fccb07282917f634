#!/usr/bin/env bash
# mlx-lm's NaiveStreamingDetokenizer shows three characters where the text has two.
#
# mlx-lm 0.32.2, tokenizers 0.23.3, transformers 5.23.0. It decodes the pending tokens anew at each
# step. With a byte-fallback decoder one more byte makes a run of bytes invalid as a whole: characters
# that were shown turn into replacement characters, are stripped, and are shown again when the run is
# complete. Seen:
#     decoded at once: 'éé'
#     streamed:        'ééé'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'tokenizers==0.23.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256}
fast = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast)
ids = list("éé".encode())
stream, shown = NaiveStreamingDetokenizer(tokenizer), ""
for id_ in ids:
    stream.add_token(id_)
    shown += stream.last_segment
stream.finalize()
shown += stream.last_segment
print("decoded at once:", repr(tokenizer.decode(ids)))
print("streamed:       ", repr(shown))
assert tokenizer.decode(ids) == "éé" and shown == "ééé"
PY
