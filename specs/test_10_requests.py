"""Experiment 10: what a request asks of mlx_lm.server is done, counted and refused.

One server answers for all claims; a fault is a wire between client and server that lies.
"""

import json

import pytest

from fixtures.doubles.lying_wire import LyingWire, changed, counted_twice, of_choice, without
from llm_spec.serving.client import CHAT, COMPLETIONS

PROMPTS = ("the cat sat on the mat", "Rust", "one two three four five six seven", "a")
TURNS = (
    [{"role": "user", "content": "who are you"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "name a colour"}],
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"},
     {"role": "user", "content": "again"}],
)  # fmt: skip
TOKENS = 8


def count_the_answer_twice(served):
    return {"served": served.through(LyingWire(answer=counted_twice))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.6", falsifier=count_the_answer_twice)
def test_usage_counts_the_tokens_that_went_in_and_came_out(served, exhibit):
    """Also of the second of two equal prompts, which comes out of the prompt cache."""
    asked = [(served.encode(prompt), served.client.complete(prompt, max_tokens=n))
             for prompt, n in zip(PROMPTS * 2, range(1, 9))]  # fmt: skip
    asked += [(served.render(turns), served.client.chat(turns, max_tokens=3)) for turns in TURNS]
    rows = []
    for (ids, answer), n in zip(asked, [*range(1, 9), 3, 3, 3], strict=True):
        out = len(served.library(ids, n).ids)
        rows.append((answer.counted, (len(ids), out, len(ids) + out)))
    exhibit.table(
        [[str(counted), str(right)] for counted, right in rows],
        columns=["usage (in, out, both)", "tokens of the library"], title="usage",
    )  # fmt: skip
    wrong = [counted for counted, right in rows if counted != right]
    says = exhibit.measured("usage that is wrong", wrong, should_be=[])
    assert not wrong, says


def call_every_end_a_stop(served):
    stopped = of_choice(lambda choice: {**choice, "finish_reason": "stop"})
    return {"served": served.through(LyingWire(answer=stopped))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.7", falsifier=call_every_end_a_stop)
def test_an_answer_ends_at_max_tokens_or_at_the_end_of_sequence_and_says_which(served, exhibit):
    """A bias makes the end of sequence the likeliest token; without it the text goes on."""
    end = {str(id_): 1000 for id_ in served.tokenizer.eos_token_ids}
    rows = []
    for bias in (None, end):
        for n in (1, 4):
            answer = served.client.complete(PROMPTS[0], max_tokens=n, logit_bias=bias)
            expected = ("stop", "", 1) if bias else ("length", None, n)
            said = served.library(served.encode(PROMPTS[0]), n).text
            served_so = (answer.finish_reason, answer.text, answer.counted[1])
            rows.append((n, served_so, expected if bias else ("length", said, n)))
    exhibit.table(
        [[n, str(got), str(right)] for n, got, right in rows],
        columns=["max_tokens", "served: reason, text, tokens", "should be"], title="ends",
    )  # fmt: skip
    wrong = [f"{got} at {n}" for n, got, right in rows if got != right]
    says = exhibit.measured("answers that end otherwise", wrong, should_be=[])
    assert not wrong, says


def draw_without_the_seed(served):
    return {"served": served.through(LyingWire(ask=without("seed")))}


@pytest.mark.claim(id="10.9", falsifier=draw_without_the_seed)
def test_a_seed_gives_the_librarys_draw_and_gives_it_again(served, exhibit):
    """Temperature 2; the second row repeats the first, between other requests."""
    rows = []
    for seed in (1, 1, 2, 3):
        settings = {"max_tokens": TOKENS, "temperature": 2.0, "seed": seed}
        answer = served.client.complete(PROMPTS[0], **settings)
        said = served.library(served.encode(PROMPTS[0]), TOKENS, seed=seed, temp=2.0)
        rows.append((f"seed {seed}", answer.text, said.text))
        served.client.complete("something else", max_tokens=2, temperature=1.0)
    assert len({said for _, _, said in rows}) == 3, "three seeds give fewer than three texts"
    served.hold(exhibit, rows, "seeded draws")


SAMPLING = ({"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.5})


def draw_from_all(served):
    return {"served": served.through(LyingWire(ask=without("top_p", "top_k", "min_p")))}


@pytest.mark.claim(id="10.10", falsifier=draw_from_all)
def test_sampling_settings_reach_the_librarys_sampler(served, exhibit):
    """One seed and temperature 3, with one setting more per row: each leads to another text."""
    rows = []
    for setting in ({}, *SAMPLING):
        settings = {"temperature": 3.0, **setting}
        answer = served.client.complete(
            PROMPTS[0], max_tokens=TOKENS, seed=5, **settings
        )  # fmt: skip
        temp = settings.pop("temperature")
        said = served.library(
            served.encode(PROMPTS[0]), TOKENS, seed=5, temp=temp, **settings
        )  # fmt: skip
        rows.append((str(setting), answer.text, said.text))
    assert len({said for _, _, said in rows}) == len(rows), (
        "two settings give the same text, so one may be ignored"
    )
    served.hold(exhibit, rows, "draws")


PENALTIES = ({"repetition_penalty": 1.8}, {"presence_penalty": 6.0}, {"frequency_penalty": 4.0})


def penalise_nothing(served):
    names = [name for setting in PENALTIES for name in setting]
    return {"served": served.through(LyingWire(ask=without(*names)))}


@pytest.mark.claim(id="10.11", falsifier=penalise_nothing)
def test_biases_and_penalties_reach_the_librarys_logits_processors(served, exhibit):
    """Greedy, with one setting per row; each leads to another text than none."""
    prompt = "a b a b a b"
    second = served.library(served.encode(prompt), 1).ids[0]
    rows = []
    for setting in ({}, {"logit_bias": {second: -100.0}}, *PENALTIES):
        answer = served.client.complete(prompt, max_tokens=2 * TOKENS, **setting)
        said = served.library(served.encode(prompt), 2 * TOKENS, processors=setting)
        rows.append((str(setting), answer.text, said.text))
    plain = rows[0][2]
    assert all(said != plain for _, _, said in rows[1:]), (
        "two settings give the same text, so one may be ignored"
    )
    served.hold(exhibit, rows, "biased texts")


MESSAGES = [{"role": "user", "content": "a"}]
BAD = {
    "malformed JSON": (COMPLETIONS, "{"),
    "a list": (COMPLETIONS, []),
    "no prompt": (COMPLETIONS, {}),
    "a number for a prompt": (COMPLETIONS, {"prompt": 5}),
    "no messages": (CHAT, {}),
    "empty messages": (CHAT, {"messages": []}),
    "null for messages": (CHAT, {"messages": None}),
    "a text for messages": (CHAT, {"messages": "hi"}),
    "max_tokens -1": (COMPLETIONS, {"prompt": "a", "max_tokens": -1}),
    "a text for max_tokens": (CHAT, {"messages": MESSAGES, "max_tokens": "many"}),
    "temperature -1": (COMPLETIONS, {"prompt": "a", "temperature": -1}),
    "top_p 2": (COMPLETIONS, {"prompt": "a", "top_p": 2}),
    "top_k -1": (COMPLETIONS, {"prompt": "a", "top_k": -1}),
    "min_p 2": (COMPLETIONS, {"prompt": "a", "min_p": 2}),
    "top_logprobs 12": (COMPLETIONS, {"prompt": "a", "top_logprobs": 12}),
    "a text for the seed": (COMPLETIONS, {"prompt": "a", "seed": "x"}),
    "a list for the bias": (COMPLETIONS, {"prompt": "a", "logit_bias": [1]}),
    "a bias for no id": (COMPLETIONS, {"prompt": "a", "logit_bias": {"a": 1}}),
    "a text for stream": (COMPLETIONS, {"prompt": "a", "stream": "yes"}),
    "a number for the model": (CHAT, {"messages": MESSAGES, "model": 5}),
}


def make_do(served):
    return {"served": served.through(LyingWire(ask=changed(max_tokens=2, top_k=1)))}


@pytest.mark.claim(id="10.12", falsifier=make_do)
def test_a_bad_request_is_refused_in_json_and_the_next_one_is_served(served, exhibit):
    """The status is 4xx, the body holds an error; then an ordinary request gets its answer.

    Not every bad request is here: some wrong types end mlx-lm 0.32.2's generation thread.
    """
    said = served.library(served.encode("next"), 2).text
    rows = []
    for name, (path, body) in BAD.items():
        content = body if isinstance(body, str) else json.dumps(body)
        answer = served.client.post(path, content.encode())
        following = served.client.complete("next", max_tokens=2, top_k=1).text
        is_refused = 400 <= answer.status < 500 and bool(answer.body.get("error"))
        rows.append((name, answer.status, is_refused, following == said))
    exhibit.table(rows, columns=["request", "status", "refused", "next served"], title="refusals")
    taken = [name for name, _, is_refused, served_next in rows if not (is_refused and served_next)]
    says = exhibit.measured("bad requests that are not refused", taken, should_be=[])
    assert all(served_next for *_, served_next in rows), (
        "the answer after a disconnect differs from the library's"
    )
    assert not taken, says


def serve_any_name(served):
    return {"served": served.through(LyingWire(ask=without("model")))}


@pytest.mark.claim(id="10.13", falsifier=serve_any_name)
def test_an_unknown_model_is_no_model_and_the_served_one_stays(served, exhibit):
    """Status 404 with an error; the next request is answered as before."""
    body = {"prompt": "a", "max_tokens": 2, "model": "no-such/model"}
    answer = served.client.post(COMPLETIONS, json.dumps(body).encode())
    following = served.client.complete("next", max_tokens=2).text
    exhibit.table([[answer.status, following]], columns=["status", "next answer"], title="unknown")

    says = exhibit.measured("status for an unknown model", answer.status, should_be=404)

    assert following == served.library(served.encode("next"), 2).text, (
        "the answer after the refused request differs from the library's"
    )
    assert answer.status == 404, says


def answer_the_one_who_left(served):
    return {"served": served.through(LyingWire(ask=changed(prompt="tell me a long tale")))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.14", falsifier=answer_the_one_who_left)
def test_after_a_client_that_leaves_the_next_is_served(served, exhibit):
    """Three clients close the connection when their stream begins; then three prompts are asked."""
    rows = []
    for prompt in PROMPTS[:3]:
        served.client.leave(COMPLETIONS, {"prompt": "tell me a long tale", "max_tokens": 32})
        answer = served.client.complete(prompt, max_tokens=TOKENS)
        rows.append((prompt, answer.text, served.library(served.encode(prompt), TOKENS).text))
    served.hold(exhibit, rows, "answers")
