"""Experiment 10: a thousand requests of 16 clients, some of whom leave; connections that are reset.

A fault is a wire between client and server that lies now and then, or a client that gives up.
"""

import json
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Lock, Thread

import psutil
import pytest

from fixtures.doubles.lying_wire import LyingWire, of_choice
from llm_spec.serving import Client, NotAnAnswer, client
from llm_spec.serving.client import COMPLETIONS

CLIENTS, REQUESTS, LEAVING = 16, 1_000, 0.1  # the last: the share of requests that are left
STARTS = ("the cat", "Rust is", "one two three", "to be or not", "rain in spring", "a", "we",
          "long ago and far away there was a king who had")  # fmt: skip
ENDS, LENGTHS = 5, (1, 4, 9, 16)  # a prompt ends in a digit, which the tiny model never writes
WARM, MB = 200, 10**6
GROWTH = 20.0  # MB: the prompt cache keeps 10 prompts of 0.1 MB; allocators take what batches took


def mix_up_one_answer_in_fifty(served):
    before, numbers, lock = [""], count(1), Lock()

    def mixed(choice):
        with lock:
            text, before[0] = before[0], choice["text"]
            return {**choice, "text": text} if next(numbers) % 50 == 0 else choice

    return {"served": served.through(LyingWire(answer=of_choice(mixed)))}


@pytest.mark.slow
@pytest.mark.claim(id="10.45", falsifier=mix_up_one_answer_in_fifty)
def test_of_1000_requests_by_16_clients_none_is_answered_wrongly(served, exhibit):
    """40 prompts, which share beginnings, and 4 lengths, in a random order; a tenth of the requests
    are left after a chunk. At the end the server is healthy and no larger than after 200.

    No prompt is another one without its last token: that may end mlx-lm 0.32.2's generation thread.
    """
    drawn = random.Random(0)
    prompts = [f"{start} {end}" for start in STARTS for end in range(ENDS)]
    right = {
        (prompt, n): served.library(served.encode(prompt), n).text
        for prompt in prompts
        for n in LENGTHS
    }
    asked = [
        (drawn.choice(prompts), drawn.choice(LENGTHS), drawn.random() < LEAVING)
        for _ in range(REQUESTS)
    ]

    def ask(request):
        prompt, n, leaves = request
        body = {"prompt": prompt, "max_tokens": n}
        try:
            if leaves:
                served.client.leave(COMPLETIONS, body, after=1)
                return None
            text = served.client.ask(COMPLETIONS, body).text
        except NotAnAnswer as problem:
            return f"{prompt!r}, {n} tokens: {problem}"
        expected = right[prompt, n]
        return None if text == expected else f"{prompt!r}, {n} tokens: {text!r} for {expected!r}"

    process, memory, wrong = psutil.Process(served.server.pid), {}, []
    with ThreadPoolExecutor(CLIENTS) as clients:
        for first in range(0, REQUESTS, WARM):
            wrong += filter(None, clients.map(ask, asked[first : first + WARM]))
            memory[first + WARM] = process.memory_info().rss / MB
    grown = min(memory[REQUESTS], memory[REQUESTS - WARM]) - memory[WARM]  # a batch may still run
    exhibit.curve(
        list(memory), {"resident": list(memory.values())}, "memory of the server",
        x_axis="requests", y_axis="resident memory (MB)",
    )  # fmt: skip
    exhibit.text("\n".join(wrong[:10]) or "none", "wrong answers")
    exhibit.text(str(len(served.client.turned_away)), "connections that broke before an answer")
    left = sum(leaves for *_, leaves in asked)

    says = exhibit.measured("wrong answers", len(wrong), should_be=0)

    assert left > REQUESTS * LEAVING / 2, f"clients that left = {left}, but should be about 100"
    assert served.client.get("/health").status == 200, "the generation thread is dead"
    assert grown <= GROWTH, f"growth = {grown:.1f} MB, but should be at most {GROWTH:.0f} MB"
    assert not wrong, says


TEXT = json.dumps({"choices": [{"text": "a", "finish_reason": "stop"}]}).encode()
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(TEXT), TEXT)
BROKEN = ANSWER[:-1]  # its last byte never comes


@contextmanager
def resetting(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server on loopback that gives its connections these answers in turn and resets all but a
    whole one: where it is, and what it gave."""
    given: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = door.accept()
            except OSError:  # nobody asked again, and the door is closed
                return
            with connection:
                connection.recv(1 << 16)
                given.append(answer)
                connection.sendall(answer)
                if answer != ANSWER:  # closing without lingering resets a connection
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}", given


def give_up_at_once(monkeypatch):
    monkeypatch.setattr(client, "AGAIN", 0)


@pytest.mark.claim(id="10.61", falsifier=give_up_at_once)
def test_a_request_whose_connection_breaks_before_an_answer_is_sent_again_twice(exhibit):
    """Servers that reset two connections, three, and one within its answer, before one that they
    answer: connections made, and whether there was an answer."""
    servers = {
        "resets two": ((b"", b"", ANSWER), (3, True)),
        "resets three": ((b"", b"", b"", ANSWER), (3, False)),
        "resets one within its answer": ((BROKEN, ANSWER), (1, False)),
    }
    made, right = {}, {name: wanted for name, (_, wanted) in servers.items()}
    for name, (answers, _) in servers.items():
        with resetting(*answers) as (url, given):
            try:
                said = Client(url, seconds=10).complete("a").text
            except NotAnAnswer as problem:
                said = str(problem)
            made[name] = (len(given), said == "a")
        exhibit.text(said, f"a server that {name}")

    says = exhibit.measured("connections made, and whether answered", made, should_be=right)

    assert made == right, says
