#!/usr/bin/env bash
# transformers opens each of its 1,669 model files twice before the first tokenizer is loaded.
#
# transformers 5.23.0. `import transformers` reads each file under transformers/models to learn which
# names it exports, without importing it; the first access to AutoTokenizer reads them all again. The
# start of each program that only wants a tokenizer waits for both. Seen:
#     import transformers: 1669 files, opened 1669 times
#     AutoTokenizer:       1669 files, opened 3349 times
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.23.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys
from collections import Counter

opened = Counter()


def note(event, arguments):
    if event == "open" and "/transformers/models/" in (path := str(arguments[0])):
        opened[path] += path.endswith(".py")


sys.addaudithook(note)
import transformers

first = +opened
print(f"import transformers: {len(first)} files, opened {first.total()} times")
transformers.AutoTokenizer
last = +opened
print(f"AutoTokenizer:       {len(last)} files, opened {last.total()} times")
assert len(first) == len(last) > 1500 and min(last.values()) == 2
PY
