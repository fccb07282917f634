"""Experiment 10: mlx_lm.server as a process: large bodies, memory, its end, other clients.

A fault is a wire between client and server that lies, or a server that is tampered with.
"""

import json
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest

from fixtures.doubles.lying_wire import LyingWire, changed
from llm_spec.serving import NotServing, Server
from llm_spec.serving.client import CHAT, COMPLETIONS

TOKENS, MB = 8, 10**6
TAMPERED = (sys.executable, "-m", "fixtures.doubles.tampered_server")
LARGE = 10 * MB


def cut_long_texts(served):
    def cut(body):
        return {name: value for name, value in body.items() if name != "user"}

    lost = LyingWire(ask=cut, answer=lambda body: {} if "error" in body else body)
    return {"served": served.through(lost)}


@pytest.mark.protocol
@pytest.mark.claim(id="10.36", falsifier=cut_long_texts)
def test_a_body_of_10_mb_is_read_whole(served, exhibit):
    """Once without an end, which is refused in JSON, and once valid, which is answered; each time
    an ordinary request comes next."""
    long = "x" * LARGE
    said = served.library(served.encode("next"), 2).text
    rows = []
    for name, body, right in (
        ("no end", f'{{"prompt": "{long}', (400, True)),
        ("valid", json.dumps({"prompt": "next", "max_tokens": 2, "user": long}), (200, False)),
    ):
        answer = served.client.post(COMPLETIONS, body.encode())
        got = answer.status, bool(answer.body.get("error"))
        rows.append((name, *got, got == right and (got[1] or answer.text == said)))
        assert served.client.complete("next", max_tokens=2).text == said, (
            f"the server stopped answering after {name}"
        )
    exhibit.table(rows, columns=["body", "status", "error in JSON", "right"], title="10 MB")
    wrong = [name for name, *_, right in rows if not right]
    says = exhibit.measured("bodies of 10 MB with another answer", wrong, should_be=[])
    assert not wrong, says


FEW, MANY = 20, 200
GROWTH = 10 * MB  # kept prompts are at most 10, of 0.1 MB; allocators take a few MB


def keep_every_request(served):
    return {"served": served.by(Server(served.path, (*TAMPERED, "keep_every_request")))}


@pytest.mark.slow
@pytest.mark.claim(id="10.37", falsifier=keep_every_request)
def test_memory_after_200_requests_is_that_after_20(served, exhibit):
    """Resident memory of the server's process; prompts of 4 kinds of start and 200 ends."""
    sizes, process = {}, psutil.Process(served.server.pid)
    for count in range(1, MANY + 1):
        served.client.complete(f"{'abcd'[count % 4]} {count}", max_tokens=2)
        if count % FEW == 0:
            sizes[count] = process.memory_info().rss / MB
    exhibit.curve(
        list(sizes), {"resident": list(sizes.values())}, "memory of the server",
        x_axis="requests", y_axis="resident memory (MB)",
    )  # fmt: skip
    grown = sizes[MANY] - sizes[FEW]
    bound = GROWTH / MB
    says = exhibit.measured("growth (MB)", grown, should_be=f"≤ {bound:.0f}")
    assert grown <= bound, says


PATIENCE = 10.0  # seconds


def ignore_ctrl_c(served):
    return {"served": replace(served, program=(*TAMPERED, "ignore_ctrl_c"))}


@pytest.mark.slow
@pytest.mark.claim(id="10.38", falsifier=ignore_ctrl_c)
def test_ctrl_c_ends_the_server(served, exhibit):
    """A server of its own answers once, rests, and is interrupted. Its exit code is shown and not
    held to 0: mlx-lm 0.32.2 aborts at its end in some tries (docs/found.md)."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        pytest.skip("Ctrl-C is ignored here, in the background of a shell, and so by its servers")
    server = Server(served.path, served.program)
    text = served.by(server).client.complete("next", max_tokens=2).text
    time.sleep(1)
    began = time.monotonic()
    try:
        code = server.interrupt(PATIENCE)
    except NotServing:
        code = None
    seconds = time.monotonic() - began
    server.close()
    exhibit.table([[str(code), seconds]], columns=["exit code", "seconds"], title="Ctrl-C")

    says = exhibit.measured("seconds until it ended", seconds, should_be=f"< {PATIENCE:.0f}")

    assert text == served.library(served.encode("next"), 2).text, (
        "the server's answer before Ctrl-C differs from the library's"
    )
    assert code is not None, says


def answer_a_token_less(served):
    return {"served": served.through(LyingWire(ask=changed(max_tokens=TOKENS - 1)))}


@pytest.mark.slow  # the package takes seconds to import
@pytest.mark.protocol
@pytest.mark.claim(id="10.39", falsifier=answer_a_token_less)
def test_openais_own_client_reads_the_answers(served, exhibit):
    """Whole and streamed, of both kinds, through the package `openai`."""
    openai = pytest.importorskip("openai", reason="the package openai is missing (extra: serving)")
    client = openai.OpenAI(
        base_url=f"{served.server.url}/v1", api_key="none", max_retries=0,
        http_client=served.client.http,
    )  # fmt: skip
    turns = [{"role": "user", "content": "who are you"}]
    settings = {
        "model": "default_model", "temperature": 0, **served.client.settings, "max_tokens": TOKENS
    }  # fmt: skip
    told, rows = served.library(served.render(turns), TOKENS).text, []
    if COMPLETIONS not in served.client.lacking:
        text = client.completions.create(prompt="the cat", **settings).choices[0].text
        said = served.library(served.encode("the cat"), TOKENS).text
        rows.append((COMPLETIONS, text, said))
    if CHAT not in served.client.lacking:
        chat = client.chat.completions.create(messages=turns, **settings)
        pieces = client.chat.completions.create(messages=turns, stream=True, **settings)
        streamed = "".join(c.delta.content or "" for piece in pieces for c in piece.choices)
        rows += [(CHAT, chat.choices[0].message.content, told), ("streamed", streamed, told)]
    served.hold(exhibit, rows, "answers")
