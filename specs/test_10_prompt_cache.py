"""Experiment 10: prompts that come out of mlx_lm.server's prompt cache, or do not fit in it.

A fault is a wire between client and server that lies, or a server that is tampered with.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from fixtures.doubles.lying_wire import LyingWire, the_first_again
from fixtures.synthetic.served_directory import WINDOW
from llm_spec.numerics.distances import distance, worst
from llm_spec.serving import Server

TOKENS = 6
TAMPERED = (sys.executable, "-m", "fixtures.doubles.tampered_server")
CLOSE = 1e-4  # of logprobs, in float32: a cached prefix and a whole prompt are added in two orders
LONG = "once upon a time there was a cat that sat on the mat all day "
ASKED = (LONG, LONG, LONG[:-4], f"{LONG}and more of it", f"{LONG[:20]}xyz{LONG[:30]}", LONG,
         LONG[:25])  # fmt: skip
"""A prompt, again, its beginning, longer, another that begins like it, again, and its beginning."""


def cached(answer):
    """How many tokens of the prompt came out of the cache; None where the server does not say."""
    return (answer.body["usage"].get("prompt_tokens_details") or {}).get("cached_tokens")


def ask_in_turn(served, exhibit):
    """Ask the model of `served` each prompt, and hold text and logprobs to the library's; returns
    the cached tokens of each."""
    rows, apart, taken = [], [], []
    for prompt in ASKED:
        reply = served.client.complete(prompt, max_tokens=TOKENS, logprobs=True)
        said = served.library(served.encode(prompt), TOKENS)
        right = [step[id_] for step, id_ in zip(said.logprobs, said.ids, strict=True)]
        apart.append(distance(np.array(reply.logprobs), np.array(right)))
        taken.append(cached(reply))
        rows.append((f"{len(prompt)} letters, {taken[-1]} tokens cached", reply.text, said.text))
    served.hold(exhibit, rows, "answers")
    assert worst(apart) <= CLOSE, (
        f"largest distance of logprobs = {worst(apart):.3g}, but should be at most {CLOSE:g}"
    )
    return taken


def forget_the_first_turns(served):
    def forgetful(body):
        return {**body, "messages": body["messages"][-1:]}

    return {"served": served.through(LyingWire(ask=forgetful))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.51", falsifier=forget_the_first_turns)
def test_each_turn_of_a_chat_is_answered_after_all_turns_before_it(served, exhibit):
    """Three turns, each sent with all that was said. The server takes what was said from its prompt
    cache, the library computes it."""
    messages, rows, taken = [{"role": "system", "content": "be brief and kind to all"}], [], []
    for question in ("who are you", "and then what", "go on"):
        messages.append({"role": "user", "content": question})
        answer = served.client.chat(messages, max_tokens=TOKENS)
        said = served.library(served.render(messages), TOKENS).text
        rows.append((question, answer.text, said))
        taken.append(cached(answer))
        messages.append({"role": "assistant", "content": answer.text})
    assert 0 not in taken[1:], (
        f"cached tokens = {taken}, but should be some from the second turn on"
    )
    served.hold(exhibit, rows, "turns")


def keep_the_first_answer(windowed):
    return {"windowed": windowed.through(LyingWire(answer=the_first_again()))}


@pytest.mark.claim(id="10.52", falsifier=keep_the_first_answer)
def test_prompts_longer_than_the_sliding_window_get_their_own_answers(windowed, exhibit):
    """A rotating KV cache no longer holds what a beginning of its prompt needs. The prompts one
    after the other, then 8 at once, of whom the shortest is shorter than the window."""
    taken = ask_in_turn(windowed, exhibit)
    prompts = [LONG[place : place + 4 + 7 * place] for place in range(8)]
    alone = [windowed.library(windowed.encode(prompt), TOKENS).text for prompt in prompts]

    def ask(prompt):
        return windowed.client.complete(prompt, max_tokens=TOKENS).text

    with ThreadPoolExecutor(len(prompts)) as clients:
        texts = list(clients.map(ask, prompts))
    lengths = [len(windowed.encode(prompt)) for prompt in prompts]
    assert min(lengths) < WINDOW < max(lengths), f"tokens of the prompts = {lengths}"
    assert any(taken), f"cached tokens = {taken}, but should be some"
    windowed.hold(exhibit, list(zip(prompts, texts, alone, strict=True)), "answers at once")


def forget_the_first_step(served):
    return {"served": replace(served, program=(*TAMPERED, "forget_the_first_step"))}


NO_ROOM = ("--prompt-cache-size", "0", "--prefill-step-size", "16")


@pytest.mark.slow
@pytest.mark.claim(id="10.53", falsifier=forget_the_first_step)
def test_a_server_whose_prompt_cache_has_no_room_gives_the_same_answers(served, exhibit):
    """A server of its own, which keeps no prompt and reads 16 tokens of one at a time."""
    server = Server(served.path, (*served.program, *NO_ROOM))
    try:
        taken = ask_in_turn(served.by(server), exhibit)
    finally:
        server.close()
    assert not any(taken), f"cached tokens = {taken}, but should be none"
