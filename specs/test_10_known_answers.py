"""Experiment 10: more answers of mlx_lm.server that are not the model's, as expected failures.

Each states the value that it expects, and is green with a server that is repaired. A fault is a
wire to the repaired server that lies.
"""

import json

import pytest

from fixtures.doubles.lying_wire import LyingWire, changed, of_choice, without
from fixtures.models import known_breakage
from fixtures.models.known_breakage import KnownBreakage
from fixtures.synthetic.served_directory import write_draft
from llm_spec.serving.client import CHAT, COMPLETIONS, NotAnAnswer
from llm_spec.text.untrusted import one_line

PROMPTS, TOKENS = ("the cat sat on the mat", "Rust", "one two three"), 8


def mend(served, mended_server):
    return {"served": served.by(mended_server)}


def mend_scripted(scripted, mended_server):
    return {"scripted": scripted.by(mended_server)}


def last_token_is_lost(served):
    shorter = LyingWire(ask=lambda body: {**body, "max_tokens": body["max_tokens"] - 1})
    return {"served": served.through(shorter)}


@pytest.mark.claim(id="10.28", falsifier=last_token_is_lost)
def test_a_draft_model_changes_nothing_in_the_answer(served, tmp_path, exhibit):
    """Another tiny model drafts; the answer is the library's without a draft model. No two prompts
    begin alike."""
    draft, rows = str(write_draft(tmp_path / "draft", served.path)), []
    for prompt in PROMPTS:
        answer = served.client.complete(prompt, max_tokens=TOKENS, draft_model=draft)
        said = served.library(served.encode(prompt), TOKENS)
        rows.append((prompt, answer.text, said.text))
    served.hold(exhibit, rows, "answers")


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 keeps the KV caches of speculative decoding under a key that is one "
    "token longer than they are: trimmed to a prompt, they lack the last token but one",
)  # fmt: skip
@pytest.mark.claim(id="10.29", falsifier=last_token_is_lost, mended=mend)
def test_a_draft_model_changes_nothing_when_a_prompt_is_repeated(served, tmp_path, exhibit):
    """Each prompt twice, with a draft model; the second time it comes out of the prompt cache."""
    settings = {
        "max_tokens": TOKENS, "draft_model": str(write_draft(tmp_path / "draft", served.path))
    }  # fmt: skip
    first, second, without_one = [], [], []
    for prompt in PROMPTS:
        ids = served.encode(prompt)
        answers = [served.client.complete(prompt, **settings) for _ in range(2)]
        texts = [answer.text.removeprefix(" ") for answer in answers]  # kept or not: claim 10.54
        said = served.library(ids, TOKENS).text
        first.append(texts[0] == said)
        without_one.append(served.library(ids[:-2] + ids[-1:], TOKENS).text)
        second.append((prompt, texts[1], said))
    exhibit.table(
        [[name, one_line(text), one_line(said)] for name, text, said in second],
        columns=["prompt", "served the second time", "library"], title="repeated prompts",
    )  # fmt: skip
    other = [name for name, text, said in second if text != said]

    says = exhibit.measured("second answers that are not the library's", other, should_be=[])

    is_known = all(first) and [text for _, text, _ in second] == without_one
    known_breakage.hold(not other, says, known=is_known)


def say_nothing(scripted):
    emptied = of_choice(lambda choice: {**choice, "text": choice["text"][:1]})
    return {"scripted": scripted.through(LyingWire(answer=emptied))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 takes thoughts and tool calls out of the text of /v1/completions, which "
    "has no other place for them",
)  # fmt: skip
@pytest.mark.claim(id="10.30", falsifier=say_nothing, mended=mend_scripted)
def test_a_completion_holds_all_that_the_model_writes(scripted, exhibit):
    """A prompt to which the script has a thought, a tool call, and neither."""
    rows = []
    for key in "123":
        answer = scripted.client.complete(key, max_tokens=2 * TOKENS).text
        rows.append((key, answer, scripted.library(scripted.encode(key), 2 * TOKENS).text))
    exhibit.table(rows, columns=["prompt", "served", "library"], title="completions")
    lost = [key for key, answer, said in rows if answer != said]

    says = exhibit.measured("completions that lack text", lost, should_be=[])

    is_known = lost == ["1", "2"] and [row[1] for row in rows[:2]] == ["", "It is cold."]
    known_breakage.hold(not lost, says, known=is_known)


def lose_every_call(scripted):
    def lost(choice):
        return {**choice, "message": {"role": "assistant", "content": None}}

    return {"scripted": scripted.through(LyingWire(answer=of_choice(lost)))}


CALLS = {
    "cut by max_tokens": ("say 5", 1, '<tool_call>\n{"name":'),
    "no JSON": ("say 8", 2 * TOKENS, "no JSON"),
    "no arguments": ("say 7", 2 * TOKENS, '"now"'),
}  # what is asked, max_tokens, and what must be in the answer
LOST = {"cut by max_tokens": "length", "no JSON": "tool_calls", "no arguments": "no answer to POST"}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 drops a tool call that max_tokens cuts or that is no JSON, and gives no "
    "answer where one has no arguments",
)  # fmt: skip
@pytest.mark.claim(id="10.31", falsifier=lose_every_call, mended=mend_scripted)
def test_a_tool_call_that_cannot_be_read_is_not_lost(scripted, exhibit):
    """No call can be made of the first two, so they are text; the last names a tool without
    parameters, and is a call or text."""
    rows, lost = [], []
    for name, (asked, n, needed) in CALLS.items():
        messages = [{"role": "user", "content": asked}]
        try:
            answer = scripted.client.chat(messages, max_tokens=n)
        except NotAnAnswer as problem:
            told, end = "", str(problem)
        else:
            told, end = json.dumps(answer.choice["message"]), answer.finish_reason
        rows.append((name, told, end))
        if json.dumps(needed)[1:-1] not in told and needed not in told:
            lost.append(name)
    exhibit.table(rows, columns=["tool call", "message", "finish_reason"], title="tool calls")

    says = exhibit.measured("tool calls that are lost", lost, should_be=[])

    is_known = lost == [*CALLS] and all(end.startswith(LOST[name]) for name, _, end in rows)
    known_breakage.hold(not lost, says, known=is_known)


def ignore_adapters(served):
    return {"served": served.through(LyingWire(ask=without("adapters")))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 answers without the adapter that a request names, unless it names the "
    "model, too",
)  # fmt: skip
@pytest.mark.claim(id="10.32", falsifier=ignore_adapters, mended=mend)
def test_an_adapter_that_is_not_there_is_refused(served, exhibit):
    """A request to the served model, for an adapter in a folder that does not exist."""
    body = {"prompt": "a", "max_tokens": 2, "adapters": str(served.path / "no-adapter")}
    answer = served.client.post(COMPLETIONS, json.dumps(body).encode())
    plain = served.library(served.encode("a"), 2).text
    text = answer.text if answer.status == 200 else str(answer.body.get("error"))
    exhibit.text(one_line(text), "answer")

    says = exhibit.measured("status", answer.status, should_be=404)

    is_known = answer.status == 200 and text == plain
    known_breakage.hold(answer.status == 404, says, known=is_known)


IMPOSSIBLE = {
    "a seed of -1": '{"prompt": "a", "max_tokens": 2, "seed": -1}',
    "a seed of 2^64": '{"prompt": "a", "max_tokens": 2, "seed": 18446744073709551616}',
    "null for a bias": '{"prompt": "a", "max_tokens": 2, "logit_bias": {"5": null}}',
    "a list for a bias": '{"prompt": "a", "max_tokens": 2, "logit_bias": {"5": [1]}}',
    "temperature NaN": '{"prompt": "a", "max_tokens": 2, "temperature": NaN}',
    "max_tokens true": '{"prompt": "a", "max_tokens": true}',
}
KNOWN = {
    "a seed of -1": "no answer", "a seed of 2^64": "no answer", "null for a bias": "no answer",
    "a list for a bias": "no answer", "temperature NaN": "status 200",
    "max_tokens true": "status 200",
}  # fmt: skip


def leave_out_what_cannot_be(served):
    return {"served": served.through(LyingWire(ask=without("seed", "logit_bias", "temperature")))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 closes the connection, or answers, where a seed, a bias, a temperature "
    "or a number of tokens cannot be",
)  # fmt: skip
@pytest.mark.claim(id="10.33", falsifier=leave_out_what_cannot_be, mended=mend)
def test_a_number_that_cannot_be_is_refused_in_json(served, exhibit):
    """A status of 4xx and an error in JSON; then an ordinary request gets its answer."""
    got = {}
    said = served.library(served.encode("next"), 2).text
    for name, body in IMPOSSIBLE.items():
        try:
            answer = served.client.post(COMPLETIONS, body.encode())
            is_refused = 400 <= answer.status < 500 and answer.body.get("error")
            got[name] = "refused" if is_refused else f"status {answer.status}"
        except NotAnAnswer as problem:
            got[name] = str(problem)
        assert served.client.complete("next", max_tokens=2).text == said, (
            f"the server stopped answering after {name}"
        )
    exhibit.table(list(got.items()), columns=["request", "answer"], title="refusals")
    taken = [name for name in got if got[name] != "refused"]

    says = exhibit.measured("requests that are not refused", taken, should_be=[])

    is_known = all(got[name].startswith(KNOWN[name]) for name in IMPOSSIBLE)
    known_breakage.hold(not taken, says, known=is_known)


def name_other_ids_in_streams(served):
    def other(choice):
        if "delta" not in choice:
            return choice
        entries = (choice.get("logprobs") or {}).get("content", ())
        content = [{**entry, "id": entry["id"] + 1} for entry in entries]
        return {**choice, "logprobs": {"content": content}}

    return {"served": served.through(LyingWire(answer=of_choice(other)))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 leaves logprobs out of streams",
)  # fmt: skip
@pytest.mark.claim(id="10.34", falsifier=name_other_ids_in_streams, mended=mend)
def test_a_stream_holds_the_logprobs_that_a_whole_answer_holds(served, exhibit):
    """How many tokens of a stream come with a logprob."""
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": TOKENS, "logprobs": True}
    entries = [
        entry
        for chunk in served.client.pieces(CHAT, body)
        for entry in (chunk["choices"][0].get("logprobs") or {}).get("content", ())
    ]
    messages = body.pop("messages")
    whole = served.client.chat(messages, **body)
    ids = [entry["id"] for entry in entries]
    exhibit.text(f"{len(ids)} of {len(whole.ids)}", "tokens of the stream with a logprob")

    says = exhibit.measured("ids of a stream", ids, should_be=whole.ids)

    known_breakage.hold(ids == whole.ids, says, known=not ids and len(whole.ids) == TOKENS)


ECHOED = "a prompt to be echoed"


def ask_for_one_answer_alone(served):
    return {"served": served.through(LyingWire(ask=changed(n=1, echo=False)))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 ignores n and echo, and does not say so",
)  # fmt: skip
@pytest.mark.claim(id="10.35", falsifier=ask_for_one_answer_alone, mended=mend)
def test_a_request_for_several_choices_or_the_prompt_gets_them_or_a_refusal(served, exhibit):
    """n = 2, then echo, which puts the prompt before the answer."""
    body, got = {"prompt": ECHOED, "max_tokens": 2}, {}
    for name, setting in (("n", {"n": 2}), ("echo", {"echo": True})):
        answer = served.client.post(COMPLETIONS, json.dumps({**body, **setting}).encode())
        choices = answer.body.get("choices", ())
        fulfilled = len(choices) == 2 if name == "n" else choices and answer.text.startswith(ECHOED)
        is_right = answer.status == 400 or (answer.status == 200 and fulfilled)
        got[name] = answer.status, len(choices), "right" if is_right else "ignored"
    exhibit.table([[n, *row] for n, row in got.items()],
                  columns=["asked", "status", "choices", "answer"], title="answers")  # fmt: skip
    ignored = [name for name in got if got[name][2] != "right"]

    says = exhibit.measured("settings that are ignored", ignored, should_be=[])

    is_known = all(row == (200, 1, "ignored") for row in got.values())
    known_breakage.hold(not ignored, says, known=is_known)
