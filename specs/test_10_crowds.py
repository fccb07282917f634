"""Experiment 10: many clients of mlx_lm.server at once, each of whom gets what it gets alone.

One server answers for all claims; a fault is a wire between client and server that lies.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fixtures.doubles.lying_wire import LyingWire, of_choice, without
from llm_spec.serving.client import COMPLETIONS

CROWD = ("a", "the cat", "Rust is", "one two three four", "to be or not to be", "b c d e f g",
         "we", "long ago and far away there was", "x", "no", "rain in spring", "the end",
         "who is it that can tell me", "up and down", "q r s t u", "every good boy")  # fmt: skip
LATE = 0.05  # seconds between a late client and the next: several tokens of the tiny model
TOKENS = 8


def give_what_those_who_left_missed(served):
    left = []

    def mixed(choice):
        if choice["finish_reason"] is None:  # a piece of a stream: those clients leave
            left.append(choice["text"])
            return choice
        return {**choice, "text": left.pop() + choice["text"]} if left else choice

    return {"served": served.through(LyingWire(answer=of_choice(mixed)))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.24", falsifier=give_what_those_who_left_missed)
def test_among_16_clients_of_whom_some_leave_and_some_are_late_each_gets_its_answer(
    served, exhibit
):
    """Unequal prompts and numbers of tokens. Every fourth client leaves after two chunks of its
    stream, every fourth comes while the others are served; then those who left ask again."""
    lengths = [6 + place // 2 for place in range(len(CROWD))]
    alone = [
        served.library(served.encode(prompt), n).text
        for prompt, n in zip(CROWD, lengths, strict=True)
    ]

    def ask(place):
        if place % 4 == 3:
            body = {"prompt": CROWD[place], "max_tokens": lengths[place]}
            served.client.leave(COMPLETIONS, body, after=2)
            return None
        if place % 4 == 2:
            time.sleep(LATE * place / 4)
        return served.client.complete(CROWD[place], max_tokens=lengths[place]).text

    with ThreadPoolExecutor(len(CROWD)) as clients:
        texts = list(clients.map(ask, range(len(CROWD))))
    again = [
        text if text is not None else
        served.client.complete(CROWD[place], max_tokens=lengths[place]).text
        for place, text in enumerate(texts)
    ]  # fmt: skip
    rows = list(zip(CROWD, again, alone, strict=True))
    assert texts.count(None) == 4, "four clients should leave"
    assert len(set(alone)) == len(alone), "two prompts have one answer: mixed up or not?"
    served.hold(exhibit, rows, "answers")


def settings_of_the_one_before(served):
    before = [{}]

    def swapped(body):
        own = {name: body[name] for name in ("prompt", "max_tokens")}
        before.append({name: body[name] for name in body if name not in own})
        return {**own, **before[-2]}

    return {"served": served.through(LyingWire(ask=swapped))}


@pytest.mark.claim(id="10.25", falsifier=settings_of_the_one_before)
def test_requests_at_once_keep_their_own_biases_and_penalties(served, exhibit):
    """One prompt six times at once, greedy, each with settings of its own."""
    prompt, n = "a b a b a b", 2 * TOKENS
    ids = served.encode(prompt)
    first, second = served.library(ids, 2).ids
    given = (
        {},
        {"repetition_penalty": 1.8},
        {"presence_penalty": 6.0},
        {"frequency_penalty": 4.0},
        {"logit_bias": {first: -100.0}},
        {"logit_bias": {second: 100.0}, "repetition_penalty": 1.5},
    )
    alone = [served.library(ids, n, processors=settings).text for settings in given]

    def ask(settings):
        return served.client.complete(prompt, max_tokens=n, **settings).text

    with ThreadPoolExecutor(len(given)) as clients:
        texts = list(clients.map(ask, given))
    different = len(set(alone))  # several penalties of one request can agree on a real model
    assert different >= 4, f"different answers = {different}, but should be at least 4"
    rows = [(str(each), *pair) for each, *pair in zip(given, texts, alone, strict=True)]
    served.hold(exhibit, rows, "answers")


def draw_without_the_seed(served):
    return {"served": served.through(LyingWire(ask=without("seed")))}


@pytest.mark.claim(id="10.26", falsifier=draw_without_the_seed)
def test_a_seed_gives_the_librarys_draw_beside_other_requests(served, exhibit):
    """Three seeded requests, each sent with four others that draw without a seed."""
    prompt, n = "the cat sat on the mat", TOKENS
    ids = served.encode(prompt)

    def ask(seed):
        text = prompt if seed else "something else to say"
        return served.client.complete(text, max_tokens=n, temperature=2.0, seed=seed).text

    rows = []
    for seed in (1, 2, 1):
        with ThreadPoolExecutor(5) as clients:
            text = list(clients.map(ask, (None, None, seed, None, None)))[2]
        rows.append((f"seed {seed}", text, served.library(ids, n, seed=seed, temp=2.0).text))
    assert len({said for *_, said in rows}) == 2, "two seeds do not give two texts"
    served.hold(exhibit, rows, "seeded draws")


def keep_the_first_answer(served):
    first = []

    def known(choice):
        first.append(choice)
        return first[0]

    return {"served": served.through(LyingWire(answer=of_choice(known)))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.27", falsifier=keep_the_first_answer)
def test_a_prompt_that_the_prompt_cache_has_dropped_gets_its_answer_again(served, exhibit):
    """Asked, pushed out by 11 others (the server keeps 10 by default), and asked again."""
    prompts = ["zz one two", *(f"{letter} {letter}" for letter in "bcdefghijkl"), "zz one two"]
    rows, cached = [], []
    for prompt in prompts:
        answer = served.client.complete(prompt, max_tokens=TOKENS // 2)
        details = answer.body["usage"].get("prompt_tokens_details") or {}
        cached.append(details.get("cached_tokens", "an unknown number of"))
        rows.append((prompt, answer.text, served.library(served.encode(prompt), TOKENS // 2).text))
    exhibit.text(f"{cached[-1]} tokens of the last prompt came out of the cache", "cached")
    served.hold(exhibit, rows, "answers")
