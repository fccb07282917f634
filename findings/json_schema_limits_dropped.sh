#!/usr/bin/env bash
# Given a JSON schema with a limit, two of three constrained decoders let the model break it, silently.
#
# outlines-core 0.2.14, lm-format-enforcer 0.11.3, llguidance 1.9.1. Constrained decoding is used so that
# the answer need not be checked: it is said to be valid by construction. For the keywords below,
# outlines-core and lm-format-enforcer build their constraint as if the keyword were not there, and
# accept a text that the schema forbids; nothing is raised or logged. llguidance obeys, or refuses the
# schema. A program that changes the library behind one schema loses its limits. Seen:
#     keyword            text            outlines-core   lm-format-enforcer  llguidance
#     maximum            {"a":7}         accepted        accepted            rejected
#     multipleOf         {"a":7}         accepted        accepted            rejected
#     minProperties      {}              accepted        accepted            rejected
#     uniqueItems        {"a":[1,1]}     accepted        accepted            schema refused
#     dependentRequired  {"a":1}         accepted        accepted            schema refused
#     maxItems           {"a":[1,2,3]}   rejected        rejected            rejected
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'outlines-core==0.2.14' 'lm-format-enforcer==0.11.3' 'llguidance==1.9.1'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json

import llguidance
from lmformatenforcer import JsonSchemaParser
from outlines_core import Guide, Index, Vocabulary, json_schema

LETTERS = [chr(code) for code in range(32, 127)]
VOCABULARY = Vocabulary(len(LETTERS), {letter: [at] for at, letter in enumerate(LETTERS)})
NUMBER, NUMBERS = {"type": "integer"}, {"type": "array", "items": {"type": "integer"}}


def outlines_core(schema, text):
    guide = Guide(Index(json_schema.build_regex_from_schema(json.dumps(schema)), VOCABULARY))
    for letter in text:
        if LETTERS.index(letter) not in guide.get_tokens():
            return "rejected"
        guide.advance(LETTERS.index(letter))
    return "accepted" if guide.is_finished() else "rejected"


def format_enforcer(schema, text):
    parser = JsonSchemaParser(schema)
    for letter in text:
        if letter not in parser.get_allowed_characters():
            return "rejected"
        parser = parser.add_character(letter)
    return "accepted" if parser.can_end() else "rejected"


def guidance(schema, text):
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    if matcher.is_error():
        return "schema refused"
    taken = matcher.try_consume_tokens(list(text.encode()))
    return "accepted" if taken == len(text) and matcher.is_accepting() else "rejected"


def schema_of(field, **more):
    properties = {"a": field, "b": NUMBER} if "dependentRequired" in more else {"a": field}
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


CASES = [
    ("maximum", schema_of({**NUMBER, "maximum": 5}), '{"a":7}'),
    ("multipleOf", schema_of({**NUMBER, "multipleOf": 10}), '{"a":7}'),
    ("minProperties", schema_of(NUMBER, minProperties=1), "{}"),
    ("uniqueItems", schema_of({**NUMBERS, "uniqueItems": True}), '{"a":[1,1]}'),
    ("dependentRequired", schema_of(NUMBER, dependentRequired={"a": ["b"]}), '{"a":1}'),
    ("maxItems", schema_of({**NUMBERS, "maxItems": 2}), '{"a":[1,2,3]}'),
]
seen = []
for keyword, schema, text in CASES:
    seen.append([decoder(schema, text) for decoder in (outlines_core, format_enforcer, guidance)])
    print(f"{keyword:18} {text:15} {seen[-1][0]:15} {seen[-1][1]:19} {seen[-1][2]}")
assert [one[:2] for one in seen] == [["accepted"] * 2] * 5 + [["rejected"] * 2]
assert [one[2] for one in seen] == ["rejected"] * 3 + ["schema refused"] * 2 + ["rejected"]
PY
