#!/usr/bin/env bash
# A chat template writes a tool's apostrophe in two ways, and its keys in two orders.
#
# transformers 5.23.0, Jinja2 3.1.6, minijinja 3.1.0. Chat templates write tools by the filter tojson.
# Jinja2's own escapes for HTML and sorts the keys; minijinja's escapes and does not sort;
# transformers replaces the filter by one that does neither. A program that renders the template of a model with
# a bare engine gives the model another prompt than the one it was trained on. Seen:
#     transformers {"name": "f", "description": "what's < 3"}
#     Jinja2       {"description": "what\u0027s \u003c 3", "name": "f"}
#     minijinja    {"name": "f", "description": "what\u0027s \u003c 3"}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.23.0' 'tokenizers==0.23.3' 'jinja2==3.1.6' 'minijinja==3.1.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import jinja2
import minijinja
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATE = "{{ tools[0] | tojson }}"
tools = [{"name": "f", "description": "what's < 3"}]
fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
seen = {
    "transformers": fast.apply_chat_template(
        [{"role": "user", "content": "a"}], tools=tools, chat_template=TEMPLATE, tokenize=False
    ),
    "Jinja2": str(jinja2.Environment().from_string(TEMPLATE).render(tools=tools)),
    "minijinja": minijinja.Environment().render_str(TEMPLATE, tools=tools),
}
for name, text in seen.items():
    print(f"{name:12}", text)
assert seen["transformers"] == '{"name": "f", "description": "what\'s < 3"}'
assert seen["Jinja2"] == r'{"description": "what\u0027s \u003c 3", "name": "f"}'
assert "".join(seen["minijinja"].split()) == r'{"name":"f","description":"what\u0027s\u003c3"}'
PY
