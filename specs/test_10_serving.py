"""Experiment 10: what mlx_lm.server answers is what the model says.

One server answers for all claims; the library, with the same directory, says what it should answer.
A fault is a wire between client and server that lies. On a CPU the two compute the same to the bit.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from fixtures.doubles.lying_wire import LyingWire, of_choice
from llm_spec.numerics.distances import distance, worst
from llm_spec.serving.client import CHAT, COMPLETIONS

PROMPTS = ("the cat sat on the mat", "Rust", "one two three four five six seven", "a")
TURNS = (
    [{"role": "user", "content": "who are you"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "name a colour"}],
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "again"},
    ],
)
TOKENS = 8
DRAWS = [{"temperature": t, **seed} for t in (0.5, 2.0) for seed in ({}, {"seed": 3})]
CLOSE = 1e-4  # of logprobs, in float32: a cached prefix and a whole prompt are added in two orders


def read_one_letter_more(served):
    return {"served": served.through(LyingWire(ask=lengthened))}


def lengthened(body):
    return {**body, "prompt": body["prompt"] + "a"}


@pytest.mark.protocol
@pytest.mark.claim(id="10.1", falsifier=read_one_letter_more)
def test_a_served_completion_is_what_the_library_generates(served, exhibit):
    """Greedy texts of prompts of several lengths."""
    rows = []
    for prompt in PROMPTS:
        answer = served.client.complete(prompt, max_tokens=TOKENS)
        said = served.library(served.encode(prompt), TOKENS)
        rows.append((prompt, answer.text, said.text))
    served.hold(exhibit, rows, "completions")


def apply_the_template_twice(served):
    def templated(body):
        text = served.tokenizer.decode(served.render(body["messages"]))
        return {**body, "messages": [{"role": "user", "content": text}]}

    return {"served": served.through(LyingWire(ask=templated))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.2", falsifier=apply_the_template_twice)
def test_a_served_chat_is_what_the_library_generates_after_the_template(served, exhibit):
    """The template is applied once, to one turn, to a system message and to three turns."""
    rows = []
    for messages in TURNS:
        answer = served.client.chat(messages, max_tokens=TOKENS)
        said = served.library(served.render(messages), TOKENS)
        rows.append((messages[-1]["content"], answer.text, said.text))
    served.hold(exhibit, rows, "chats")


def lose_one_piece(served):
    left = ["a piece", "another"]

    def emptied(choice):
        if "delta" in choice and choice["delta"].get("content") and left:
            left.pop()
            return {**choice, "delta": {"role": "assistant"}}
        return choice

    return {"served": served.through(LyingWire(answer=of_choice(emptied)))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.3", falsifier=lose_one_piece)
def test_the_pieces_of_a_stream_are_the_whole_answer(served, exhibit):
    """Joined in order, and held to the library. More than one piece came."""
    rows, counts = [], []
    for prompt, messages in zip(PROMPTS[:2], TURNS[:2], strict=True):
        for path, ids, body in (
            (COMPLETIONS, served.encode(prompt), {"prompt": prompt}),
            (CHAT, served.render(messages), {"messages": messages}),
        ):
            if path in served.client.lacking:
                continue  # an endpoint that offers the other alone
            pieces = [c["choices"][0] for c in served.client.pieces(
                path, {**body, "max_tokens": TOKENS})]  # fmt: skip
            texts = [p["delta"].get("content", "") if "delta" in p else p["text"] for p in pieces]
            counts.append(sum(map(bool, texts)))
            said = served.library(ids, TOKENS)
            rows.append((f"{path} {prompt}", "".join(texts), said.text))
    assert min(counts) > 1, f"pieces per answer = {counts}: nothing was streamed"
    served.hold(exhibit, rows, "streamed texts")


def answer_with_anothers_text(served):
    before = []

    def mixed_up(choice):
        before.append(choice)
        return before[-2] if len(before) > 1 else choice

    return {"served": served.through(LyingWire(answer=of_choice(mixed_up)))}


CROWD = ("a", "the cat", "Rust is", "one two three four", "to be or not to be", "b c d e f g",
         "we", "long ago and far away there was")  # fmt: skip


@pytest.mark.protocol
@pytest.mark.claim(id="10.4", falsifier=answer_with_anothers_text)
def test_requests_at_once_get_their_own_answers(served, exhibit):
    """Two, then eight requests at once, of unequal prompts and unequal numbers of tokens."""
    alone = {
        prompt: served.library(served.encode(prompt), 4 + 3 * place).text
        for place, prompt in enumerate(CROWD)
    }

    def ask(place):
        return served.client.complete(CROWD[place], max_tokens=4 + 3 * place).text

    rows = []
    for crowd in (2, 8):
        with ThreadPoolExecutor(crowd) as clients:
            texts = list(clients.map(ask, range(crowd)))
        rows += [(f"{crowd}: {prompt}", text, alone[prompt]) for prompt, text in zip(CROWD, texts)]
    assert len(set(alone.values())) == len(alone), (
        "two prompts have the same answer, so a mix-up would not show"
    )
    served.hold(exhibit, rows, "answers")


def one_token_late(served):
    def late(choice):
        entries = choice.get("logprobs", {}).get("content", [])
        shifted = [{**e, "logprob": b["logprob"]} for e, b in pairwise(entries)]
        return {**choice, "logprobs": {"content": [*shifted, *entries[-1:]]}}

    return {"served": served.through(LyingWire(answer=of_choice(late)))}


@pytest.mark.claim(id="10.5", falsifier=one_token_late)
def test_served_logprobs_are_the_models_at_the_emitted_tokens(served, exhibit):
    """The log-softmax of the logits, before any temperature. Greedy answers, at the ids that the
    library emits; then draws, at the ids of the answer."""
    rows, apart, same_ids = [], [], []
    for settings in DRAWS:
        answer = served.client.complete(PROMPTS[0], max_tokens=TOKENS, logprobs=True, **settings)
        ids = served.encode(PROMPTS[0])
        logits = served.model(mx.array([[*ids, *answer.ids]]))[0, len(ids) - 1 : -1]
        likely = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        right = [step[id_].item() for step, id_ in zip(likely, answer.ids, strict=True)]
        apart.append(distance(np.array(answer.logprobs), np.array(right)))
        rows.append([str(settings), answer.ids, apart[-1]])
    for prompt in PROMPTS:
        answer = served.client.complete(prompt, max_tokens=TOKENS, logprobs=True)
        said = served.library(served.encode(prompt), TOKENS)
        right = [step[id_] for step, id_ in zip(said.logprobs, said.ids, strict=True)]
        same_ids.append(answer.ids == said.ids)
        apart.append(distance(np.array(answer.logprobs), np.array(right)))
        rows.append([prompt, answer.ids, apart[-1]])
    exhibit.table(
        [[p, str(i), d] for p, i, d in rows],
        columns=["prompt or settings", "ids served", "distance of logprobs"], title="logprobs",
    )  # fmt: skip
    says = exhibit.measured("largest distance of a logprob", worst(apart), should_be=f"≤ {CLOSE}")
    assert all(same_ids), f"ids equal to the library's = {same_ids}, but should all be"
    assert worst(apart) <= CLOSE, says


def keep_the_first_answer(served):
    """The fault of a prompt cache that gives what the longest known prefix gave."""
    first = []

    def known(choice):
        if "logprobs" not in choice:
            return choice
        first.append(choice)
        return first[0]

    return {"served": served.through(LyingWire(answer=of_choice(known)))}


@pytest.mark.claim(id="10.8", falsifier=keep_the_first_answer)
def test_a_prompt_that_shares_a_prefix_with_an_earlier_one_gets_its_own_answer(served, exhibit):
    """Asked for the first time, again, extended by a part of its answer, as a longer and a
    shorter branch: the server takes the prefix from its cache, the library computes it.

    A prompt that is an earlier one with its whole answer is left out: it can end mlx-lm 0.32.2's
    generation thread.
    """
    base = "once upon a time there was a cat"
    answer = served.client.complete(base, max_tokens=TOKENS).text
    asked = (
        base,
        base,
        base + answer[:3],
        base + answer + " and a dog",
        base[:-3] + "dog",
        base[:9],
    )
    rows, cached, apart = [], [], []
    for prompt in asked:
        reply = served.client.complete(prompt, max_tokens=TOKENS, logprobs=True)
        said = served.library(served.encode(prompt), TOKENS)
        cached.append(reply.body["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0))
        right = [step[id_] for step, id_ in zip(said.logprobs, said.ids, strict=True)]
        apart.append(distance(np.array(reply.logprobs), np.array(right)))
        rows.append((prompt, reply.text, said.text))
    assert any(cached), f"cached tokens = {cached}, but should be some"
    served.hold(exhibit, rows, "answers from the cache")
    assert worst(apart) <= CLOSE, (
        f"largest distance of logprobs = {worst(apart):.3g}, but should be at most {CLOSE:g}"
    )
