#!/usr/bin/env bash
# gguf's GGUFReader takes seventy times a file's size to read a vocabulary.
#
# gguf 0.19.0, numpy 2.4.6. The file is mapped into memory, so one expects that looking at it costs
# little. The reader makes a numpy array of every number and two of every string (its length and its
# bytes), and keeps them all: 1.3 KB per token. With scores and types beside the tokens, a vocabulary of
# 262,144, as Gemma's, took 677 MB and a minute on a slow core; the file has 6 MB, and nothing
# was asked but to open it. Seen, with 65,536 tokens and neither scores nor types:
#     file: 1.2 MB
#     more memory after GGUFReader: 86 MB
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'gguf==0.19.0' 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import os
import resource
import sys

from gguf import GGUFReader, GGUFWriter

TOKENS = 65_536


def most_memory():
    """The largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


writer = GGUFWriter("vocabulary.gguf", "llama")
writer.add_token_list([f"token{number}" for number in range(TOKENS)])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
size, before = os.path.getsize("vocabulary.gguf") / 1e6, most_memory()
reader = GGUFReader("vocabulary.gguf")
more = most_memory() - before
assert len(reader.fields["tokenizer.ggml.tokens"].data) == TOKENS
print(f"file: {size:.1f} MB")
print(f"more memory after GGUFReader: {more:.0f} MB")
assert more > 50 * size
PY
