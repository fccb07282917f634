#!/usr/bin/env bash
# Five tool parsers of mlx-lm hand a tool other arguments than the model wrote.
#
# mlx-lm 0.32.2. A call is written as each model's chat template writes it, with an argument that fits the
# tool's JSON schema, and is parsed with that schema. An integer above 2^53 goes through a float: an ID
# becomes that of somebody else. A line of code loses its indentation, so an editing tool does not find it,
# or puts it in wrongly. The text null becomes None. An optional text or number, in the words of JSON
# schema that Pydantic writes for it (anyOf with null), changes its type. No warning is told, and the
# answer of mlx_lm.server is a valid call. The formats with JSON or with quoted texts (kimi_k2, gemma4,
# json_tools) keep all five. vLLM and SGLang have mended the indentation. Seen:
#     integer   1234567890123456789: qwen3_coder 1234567890123456768
#     code      '    return x': glm47 'return x', longcat 'return x', minimax_m2 'return x', minicpm5 'return x'
#     text      'null': qwen3_coder None, minimax_m2 None, minicpm5 None
#     text?     '12345': glm47 12345, longcat 12345
#     integer?  7: qwen3_coder '7'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from importlib import import_module


def plain(value):
    return value if isinstance(value, str) else json.dumps(value)


def quoted(value):
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else json.dumps(value)


WRITTEN = {  # between the marks of a call, as the chat templates have it
    "qwen3_coder": lambda v: f"\n<function=f>\n<parameter=x>\n{plain(v)}\n</parameter>\n</function>\n",
    "glm47": lambda v: f"f<arg_key>x</arg_key><arg_value>{plain(v)}</arg_value>",
    "longcat": lambda v: (
        "f\n<longcat_arg_key>x</longcat_arg_key>"
        f"\n<longcat_arg_value>{plain(v)}</longcat_arg_value>\n"
    ),
    "minimax_m2": lambda v: (
        f'\n<invoke name="f">\n<parameter name="x">{plain(v)}</parameter>\n</invoke>\n'
    ),
    "minicpm5": lambda v: f'"f"><param name="x">{plain(v)}</param>',
    "gemma4": lambda v: f"call:f{{x:{quoted(v)}}}",
    "kimi_k2": lambda v: "functions.f:0<|tool_call_argument_begin|>" + json.dumps({"x": v}),
    "json_tools": lambda v: json.dumps({"name": "f", "arguments": {"x": v}}),
}
OPTIONAL_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}]}
OPTIONAL_INTEGER = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
ARGUMENTS = {
    "integer ": ({"type": "integer"}, 1234567890123456789),
    "code    ": ({"type": "string"}, "    return x"),
    "text    ": ({"type": "string"}, "null"),
    "text?   ": (OPTIONAL_TEXT, "12345"),
    "integer?": (OPTIONAL_INTEGER, 7),
}
found = {}
for name, (schema, value) in ARGUMENTS.items():
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    changed = {}
    for parser, write in WRITTEN.items():
        call = import_module(f"mlx_lm.tool_parsers.{parser}").parse_tool_call(write(value), tools)
        call = call[0] if isinstance(call, list) else call
        assert call["name"] == "f" and list(call["arguments"]) == ["x"], call
        if repr(call["arguments"]["x"]) != repr(value):
            changed[parser] = call["arguments"]["x"]
    found[name.strip()] = changed
    print(f"{name}  {value!r}:", ", ".join(f"{who} {got!r}" for who, got in changed.items()))
assert found == {
    "integer": {"qwen3_coder": 1234567890123456768},
    "code": dict.fromkeys(("glm47", "longcat", "minimax_m2", "minicpm5"), "return x"),
    "text": dict.fromkeys(("qwen3_coder", "minimax_m2", "minicpm5"), None),
    "text?": {"glm47": 12345, "longcat": 12345},
    "integer?": {"qwen3_coder": "7"},
}
PY
