#!/usr/bin/env bash
# With a minLength or maxLength, xgrammar lets no string contain a quote, a backslash or a newline.
#
# xgrammar 0.2.9 (which installs torch). A JSON string writes these by an escape. Without a limit
# xgrammar lets the model write escapes; with a limit, however wide, its grammar for the string has
# none. A valid answer becomes impossible: source code, or a Windows path, must be written as
# something else. Seen:
#     text         no limit   maxLength 100  minLength 1
#     "a"          accepted   accepted       accepted
#     "a\nb"       accepted   rejected       rejected
#     "a \"b\""    accepted   rejected       rejected
#     "C:\\d"      accepted   rejected       rejected
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'xgrammar==0.2.9' 'transformers==5.24.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json

import xgrammar

LETTERS = [chr(code) for code in range(32, 127)]
END = len(LETTERS)
tokens = xgrammar.TokenizerInfo([*LETTERS, "</s>"], stop_token_ids=[END])
compiler = xgrammar.GrammarCompiler(tokens)


def judged(text, **limit):
    schema = json.dumps({"type": "string", **limit})
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema))
    return "accepted" if matcher.accept_string(text) and matcher.accept_token(END) else "rejected"


print("text         no limit   maxLength 100  minLength 1")
seen = []
for text in (r'"a"', r'"a\nb"', r'"a \"b\""', r'"C:\\d"'):
    assert isinstance(json.loads(text), str)
    seen.append((judged(text), judged(text, maxLength=100), judged(text, minLength=1)))
    print("{:12} {:10} {:14} {}".format(text, *seen[-1]))
assert seen == [("accepted",) * 3] + [("accepted", "rejected", "rejected")] * 3
PY
