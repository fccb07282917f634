"""Experiment 10: what mlx_lm.server makes of a chat: its template, tool calls, thoughts.

A scripted model says what a text must hold; the server that serves the model under test loads it on
request. A fault is a wire between client and server that lies.
"""

import json

import pytest

from fixtures.doubles.lying_wire import LyingWire, of_choice
from llm_spec.serving.client import CHAT

TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}}}}
    for name in ("weather", "time")
]  # fmt: skip
CALLS = {
    "1": [("weather", {"city": "Oslo"})],
    "3": [],
    "4": [("a", {"x": 1}), ("b", {})],
}  # what the script's answers call
TOKENS = 8


def user(text):
    return {"role": "user", "content": text}


def of_message(change):
    """What is answered, with the message changed, whole or a piece of a stream."""

    def changed(choice):
        name = "delta" if "delta" in choice else "message"
        return {**choice, name: change(dict(choice[name]))}

    return of_choice(changed)


def called(calls):
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


def streamed(served, messages, **settings):
    """The message of a streamed chat, put together, and how it ended."""
    body = {"messages": messages, "max_tokens": 2 * TOKENS, **settings}
    choices = [chunk["choices"][0] for chunk in served.client.pieces(CHAT, body)]
    deltas = [choice["delta"] for choice in choices]
    joined = {
        name: "".join(delta.get(name) or "" for delta in deltas)
        for name in ("content", "reasoning")
    }
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    return {**joined, "tool_calls": calls}, choices[-1]["finish_reason"]


def encode_arguments_twice(scripted):
    def twice(message):
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps({"text": call["function"]["arguments"]})
        return message

    return {"scripted": scripted.through(LyingWire(answer=of_message(twice)))}


@pytest.mark.claim(id="10.20", falsifier=encode_arguments_twice)
def test_tool_calls_are_parsed_as_the_template_writes_them(scripted, exhibit):
    """One call, none and two, whole and streamed: name, arguments, finish_reason, no markup."""
    rows = []
    for key, expected in CALLS.items():
        end = "tool_calls" if expected else "stop"
        messages = [user(f"say {key}")]
        answer = scripted.client.chat(messages, tools=TOOLS, max_tokens=2 * TOKENS)
        whole = answer.choice["message"], answer.finish_reason
        for how, (message, reason) in {
            "whole": whole, "streamed": streamed(scripted, messages, tools=TOOLS),
        }.items():  # fmt: skip
            got = called(message.get("tool_calls") or ())
            left = "<" in (message["content"] or "")
            rows.append((key, how, str(got), reason, left, (got, reason) == (expected, end)))
    exhibit.table(
        [row[:5] for row in rows],
        columns=["asked", "how", "calls", "finish_reason", "markup left"], title="tool calls",
    )  # fmt: skip
    wrong = [row[2] for row in rows if not row[5] or row[4]]
    says = exhibit.measured("tool calls that are wrong", wrong, should_be=[])
    assert not wrong, says


def speak_the_thoughts(scripted):
    def spoken(message):
        thought = message.pop("reasoning", "")
        return {**message, "content": thought + (message.get("content") or "")}

    return {"scripted": scripted.through(LyingWire(answer=of_message(spoken)))}


THOUGHTS = (
    ("say 2", 2 * TOKENS, ("let me see", "It is cold.")),
    ("say 3", 2 * TOKENS, ("", "It rains in Oslo")),
    ("say 4", 2 * TOKENS, ("hm", "I ask.")),
    ("say 2", 2, ("let me ", "")),
    ("say <think>", 2 * TOKENS, ("so it", "\nis.")),
)  # what is asked, max_tokens, what is thought and said


@pytest.mark.claim(id="10.21", falsifier=speak_the_thoughts)
def test_thoughts_are_separated_from_the_answer(scripted, exhibit):
    """Whole and streamed; also a thought that max_tokens ends, and one that the prompt begins."""
    rows = []
    for asked, n, expected in THOUGHTS:
        messages = [user(asked)]
        answer = scripted.client.chat(messages, max_tokens=n).choice["message"]
        stream, _ = streamed(scripted, messages, max_tokens=n)
        for how, message in {"whole": answer, "streamed": stream}.items():
            got = message.get("reasoning", ""), message["content"] or ""
            rows.append((asked, how, *got, got == expected))
    exhibit.table(
        [row[:4] for row in rows], columns=["asked", "how", "thought", "said"], title="thoughts"
    )
    wrong = [f"{row[0]}, {row[1]}: {row[2:4]}" for row in rows if not row[4]]
    says = exhibit.measured("answers with misplaced thoughts", wrong, should_be=[])
    assert not wrong, says


def forget_what_tools_said(served):
    def forgetful(body):
        kept = [m for m in body["messages"] if m["role"] != "tool"]
        return {**body, "messages": kept}

    return {"served": served.through(LyingWire(ask=forgetful))}


@pytest.mark.claim(id="10.22", falsifier=forget_what_tools_said)
def test_tools_their_calls_and_their_results_go_through_the_template(served, exhibit):
    """Tools alone, then an earlier call with its result: the text after the template, applied once
    to the same. A call's arguments are text in a request, and what they mean in a template."""
    call = {"id": "1", "type": "function"}
    result = {"role": "tool", "tool_call_id": "1", "content": "rain"}
    rows, given = [], []
    for history in (False, True):
        asked, rendered = [user("a")], [user("a")]
        if history:
            for messages, arguments in ((asked, '{"city": "Oslo"}'), (rendered, {"city": "Oslo"})):
                function = {"name": "weather", "arguments": arguments}
                messages += [{"role": "assistant", "content": "",
                              "tool_calls": [{**call, "function": function}]}, result]  # fmt: skip
        ids = served.render(rendered, tools=TOOLS)
        given.append(len(ids))
        answer = served.client.chat(asked, tools=TOOLS, max_tokens=TOKENS)
        said = served.library(ids, TOKENS).text
        rows.append(("tools and a result" if history else "tools", answer.text, said))
    assert given[1] > given[0], f"prompt tokens = {given}, but should grow with the history"
    served.hold(exhibit, rows, "chats")


def keep_the_first_system_message(served):
    first = []

    def kept(body):
        first.append(body["messages"][0])
        return {**body, "messages": [first[0], *body["messages"][1:]]}

    return {"served": served.through(LyingWire(ask=kept))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.23", falsifier=keep_the_first_system_message)
def test_chats_share_the_prompt_cache_of_equal_system_messages_alone(served, exhibit):
    """A system message with two questions, then the first question after another system message.
    The second chat takes the first's system message from the cache."""
    rows, cached = [], []
    for system, question in (
        ("you are a pirate", "a"),
        ("you are a pirate", "name it"),
        ("speak French", "a"),
    ):
        messages = [{"role": "system", "content": system}, user(question)]
        answer = served.client.chat(messages, max_tokens=TOKENS)
        said = served.library(served.render(messages), TOKENS).text
        details = answer.body["usage"].get("prompt_tokens_details") or {}
        cached.append(details.get("cached_tokens"))
        rows.append((f"{system}: {question}", answer.text, said))
    assert cached[1] != 0, f"cached tokens of the second chat = {cached[1]}, but should be above 0"
    assert len({said for *_, said in rows}) == 3, (
        "answers are equal, but should depend on the system message"
    )
    served.hold(exhibit, rows, "chats")
