#!/usr/bin/env bash
# A JSON schema's pattern is taken for the whole string: with "^[A-Z]" a name may have one letter.
#
# outlines-core 0.2.14, lm-format-enforcer 0.11.3, llguidance 1.9.1, jsonschema 4.26.0. In JSON Schema a
# pattern may match anywhere, so "^[A-Z]" asks for a capital at the start and lets anything follow.
# lm-format-enforcer holds the model to exactly one capital. outlines-core takes "b" for the whole
# string, and cannot build an index where only one end is anchored; what it raises blames the
# vocabulary. llguidance lets the model write what the schema allows. A model that wants to write
# "Anna" writes "A", and a validator finds nothing wrong. Seen:
#     pattern  string  jsonschema  outlines-core  lm-format-enforcer  llguidance
#     ^[A-Z]   A       valid       ValueError     valid               valid
#     ^[A-Z]   Anna    valid       ValueError     rejected            valid
#     b        b       valid       valid          valid               valid
#     b        abc     valid       rejected       rejected            valid
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'outlines-core==0.2.14' 'lm-format-enforcer==0.11.3' 'llguidance==1.9.1' 'jsonschema==4.26.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json

import jsonschema
import llguidance
from lmformatenforcer import JsonSchemaParser
from outlines_core import Guide, Index, Vocabulary, json_schema

LETTERS = [chr(code) for code in range(32, 127)]
VOCABULARY = Vocabulary(len(LETTERS), {letter: [at] for at, letter in enumerate(LETTERS)})


def outlines_core(schema, text):
    regex = json_schema.build_regex_from_schema(json.dumps(schema))
    try:
        guide = Guide(Index(regex, VOCABULARY))
    except ValueError as error:
        return type(error).__name__
    for letter in text:
        if LETTERS.index(letter) not in guide.get_tokens():
            return "rejected"
        guide.advance(LETTERS.index(letter))
    return "valid" if guide.is_finished() else "rejected"


def format_enforcer(schema, text):
    parser = JsonSchemaParser(schema)
    for letter in text:
        if letter not in parser.get_allowed_characters():
            return "rejected"
        parser = parser.add_character(letter)
    return "valid" if parser.can_end() else "rejected"


def guidance(schema, text):
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    taken = matcher.try_consume_tokens(list(text.encode()))
    return "valid" if taken == len(text) and matcher.is_accepting() else "rejected"


def validator(schema, text):
    return "valid" if jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)) else "rejected"


seen = []
for pattern, string in (("^[A-Z]", "A"), ("^[A-Z]", "Anna"), ("b", "b"), ("b", "abc")):
    schema, text = {"type": "string", "pattern": pattern}, json.dumps(string)
    decoders = (validator, outlines_core, format_enforcer, guidance)
    seen.append([decoder(schema, text) for decoder in decoders])
    print(f"{pattern:8} {string:7} " + "{:11} {:14} {:19} {}".format(*seen[-1]))
assert seen == [
    ["valid", "ValueError", "valid", "valid"], ["valid", "ValueError", "rejected", "valid"],
    ["valid"] * 4, ["valid", "rejected", "rejected", "valid"],
]
PY
