"""Experiment 10: many clients of mlx_lm.server at once, each of whom gets what it gets alone.

One server answers for all claims; a fault is a wire between client and server that lies.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fixtures.doubles.lying_wire import LyingWire, of_choice, the_first_again, without
from fixtures.synthetic.served_directory import write_draft
from llm_spec.serving.client import CHAT, COMPLETIONS

CROWD = ("a", "the cat", "Rust is", "one two three four", "to be or not to be", "b c d e f g",
         "we", "long ago and far away there was", "x", "no", "rain in spring", "the end",
         "who is it that can tell me", "up and down", "q r s t u", "every good boy")  # fmt: skip
LATE = 0.05  # seconds between a late client and the next: several tokens of the tiny model
TOKENS, HOT = 8, 5.0  # the last: a temperature


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
    assert texts.count(None) == 4, f"clients that left = {texts.count(None)}, but should be 4"
    assert len(set(alone)) == len(alone), (
        "two prompts have the same answer, so a mix-up would not show"
    )
    served.hold(exhibit, rows, "answers")


def answer_with_anothers_text(served):
    before = []

    def mixed(choice):
        before.append(choice)
        same = [each for each in before[:-1] if each.keys() == choice.keys()]
        return same[-1] if same else choice

    return {"served": served.through(LyingWire(answer=of_choice(mixed)))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.48", falsifier=answer_with_anothers_text)
def test_chats_and_completions_at_once_whole_and_streamed_are_each_their_own(served, exhibit):
    """16 clients: by turns a completion, a chat, and a stream of each."""
    kinds = [
        (path, stream)
        for path in (COMPLETIONS, CHAT)
        if path not in served.client.lacking
        for stream in (False, True)
    ]
    asked, alone = [], []
    for place, text in enumerate(CROWD):
        path, stream = kinds[place % len(kinds)]
        messages = [{"role": "user", "content": text}]
        given = {"messages": messages} if path == CHAT else {"prompt": text}
        n = 4 + place // 2
        ids = served.render(messages) if path == CHAT else served.encode(text)
        asked.append((path, stream, {**given, "max_tokens": n}))
        alone.append(served.library(ids, n).text)

    def ask(request):
        path, stream, body = request
        if not stream:
            return served.client.ask(path, body).text
        choices = [c["choices"][0] for c in served.client.pieces(path, body) if c["choices"]]
        return "".join(
            c["delta"].get("content") or "" if "delta" in c else c["text"] for c in choices
        )

    with ThreadPoolExecutor(len(asked)) as clients:
        texts = list(clients.map(ask, asked))
    names = [f"{path}{', streamed' * stream}: {text}" for text, (path, stream, _) in
             zip(CROWD, asked, strict=True)]  # fmt: skip
    assert len(set(alone)) == len(alone), "two requests have one answer: mixed up or not?"
    served.hold(exhibit, list(zip(names, texts, alone, strict=True)), "answers")


@pytest.mark.claim(id="10.49", falsifier=answer_with_anothers_text)
def test_requests_with_a_draft_model_and_without_are_served_at_once(served, tmp_path, exhibit):
    """8 clients, of whom every fourth names a draft model. No two prompts begin alike."""
    draft = {"draft_model": str(write_draft(tmp_path / "draft", served.path))}
    prompts = [f"{letter} and so on" for letter in "stuvwxyz"]
    alone = [served.library(served.encode(prompt), TOKENS).text for prompt in prompts]

    def ask(place):
        settings = draft if place % 4 == 1 else {}
        return served.client.complete(prompts[place], max_tokens=TOKENS, **settings).text

    with ThreadPoolExecutor(len(prompts)) as clients:
        texts = list(clients.map(ask, range(len(prompts))))
    assert len(set(alone)) > 1, "all prompts have one answer: mixed up or not?"
    served.hold(exhibit, list(zip(prompts, texts, alone, strict=True)), "answers")


def settings_of_the_one_before(served):
    before = [{}]

    def swapped(body):
        own = {name: body[name] for name in ("prompt", "max_tokens")}
        before.append({name: body[name] for name in body if name not in own})
        return {**own, **before[-2]}

    return {"served": served.through(LyingWire(ask=swapped))}


@pytest.mark.claim(id="10.25", falsifier=settings_of_the_one_before)
def test_requests_at_once_keep_their_own_samplers_biases_and_penalties(served, exhibit):
    """One prompt at once with settings of its own each: greedy ones, ones whose sampler leaves the
    likeliest token alone, and between them two that draw from all."""
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
    likeliest = ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6})
    drawn = [{"temperature": HOT, **setting} for setting in ({}, *likeliest, {})]
    alone = [served.library(ids, n, processors=settings).text for settings in given]
    alone += [alone[0]] * len(drawn)

    def ask(settings):
        return served.client.complete(prompt, max_tokens=n, **settings).text

    asked = [*given, *drawn]
    with ThreadPoolExecutor(len(asked)) as clients:
        texts = list(clients.map(ask, asked))
    different = len(set(alone))  # several penalties of one request can agree on a real model
    assert different >= 4, f"different answers = {different}, but should be at least 4"
    rows = [
        (str(each), *pair)
        for each, *pair in zip(asked, texts, alone, strict=True)
        if each != {"temperature": HOT}
    ]
    served.hold(exhibit, rows, "answers")
    assert texts[-1] != alone[0], f"temperature {HOT} draws the likeliest tokens"


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
    return {"served": served.through(LyingWire(answer=the_first_again()))}


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
