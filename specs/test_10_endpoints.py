"""Experiment 10: servers that cannot be used, and servers that others start.

The servers are stand-ins on loopback; a fault is one in what starts or examines them.
"""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from fixtures.doubles.refusals import is_one_sentence
from fixtures.doubles.suite_run import claims_in, start_pytest
from llm_spec.serving import (
    Client,
    NotAnAnswer,
    NotAnEndpoint,
    NotServing,
    Server,
    endpoint,
    examine,
    free_port,
    server,
)
from llm_spec.serving.client import CHAT, COMPLETIONS

PATIENT = 30.0  # seconds that a stand-in gets to start
STANDIN = """
import http.server, os, sys
class Dies(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        print("out of memory", flush=True); os._exit(3)
where = ("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))
http.server.HTTPServer(where, Dies).serve_forever()
"""


def refused(attempt):
    """What `attempt` is refused with; None if it succeeds."""
    try:
        attempt()
    except (NotServing, NotAnEndpoint) as problem:
        return str(problem)
    return None


def leave_processes(monkeypatch, request):
    left, end = [], server._end  # what is left must not be ended as garbage either
    monkeypatch.setattr(server, "_end", lambda *parts: left.append(parts))
    request.addfinalizer(lambda: [end(*parts) for parts in left])


@pytest.mark.claim(id="10.42", falsifier=leave_processes)
def test_a_server_that_cannot_be_used_is_told_in_one_sentence_and_leaves_no_process(exhibit):
    """Its port is taken; it ends at once; it never answers; it dies in the middle of a request."""

    def program(text):
        return sys.executable, "-c", text

    def die():
        dying = Server(Path(), program(STANDIN), seconds=PATIENT)
        try:
            Client(dying.url, why=dying.last_words).complete("a")
        except NotAnAnswer as problem:
            return str(problem)
        finally:
            dying.close()

    before = set(psutil.Process().children())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = {
            "port taken": refused(lambda: Server(Path(), port=port)),
            "ends at once": refused(
                lambda: Server(Path(), program("raise SystemExit('no model')"), seconds=PATIENT)
            ),
            "never answers": refused(
                lambda: Server(Path(), program("import time; time.sleep(9)"), seconds=0.5)
            ),
            "dies": die(),
        }
    left = [child.pid for child in psutil.Process().children() if child not in before]
    exhibit.table(list(said.items()), columns=["server", "said"], title="servers")
    bad = [name for name, text in said.items() if not is_one_sentence(text)]

    says = exhibit.measured("badly told, and processes left", (bad, len(left)), should_be=([], 0))

    assert "out of memory" in said["dies"], "the message lacks the server's last line of output"
    assert (bad, len(left)) == ([], 0), says


def handler(answers):
    """A handler that gives each path its status and text, and 404 to every other."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text = answers.get(self.path, (404, "<html>not here</html>"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    return Answers


@contextmanager
def answering(answers) -> Iterator[str]:
    """A server on loopback. `answers`: as for `handler`, or a handler."""
    answers = handler(answers) if isinstance(answers, dict) else answers
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as http:
        Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


MODELS = "/v1/models"
ONE = (200, json.dumps({"data": [{"id": "x"}]}))
CHATS = (200, json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}))
ENDPOINTS = {
    "HTML": {MODELS: (200, "<html><h1>It works!</h1></html>")},
    "404": {},
    "JSON of another kind": {MODELS: (200, '{"models": ["x"]}')},
    "a list": {MODELS: (200, "[]")},
    "no model": {MODELS: (200, '{"data": []}')},
    "two models": {MODELS: (200, json.dumps({"data": [{"id": "x"}, {"id": "y"}]}))},
    "models alone": {MODELS: ONE},
    "answers without choices": {MODELS: ONE, CHAT: (200, "{}"), COMPLETIONS: (200, "{}")},
}


def believe_every_endpoint(monkeypatch):
    monkeypatch.setattr(endpoint, "_only_model", lambda *_: "x")
    monkeypatch.setattr(endpoint, "_refusal", lambda *_: None)


@pytest.mark.claim(id="10.43", falsifier=believe_every_endpoint)
def test_what_is_no_endpoint_is_refused_in_one_sentence(exhibit):
    """Nothing there, no address, and servers of other things. One that offers chats alone is an
    endpoint."""
    said = {
        "nothing there": refused(lambda: examine(f"http://127.0.0.1:{free_port()}")),
        "no address": refused(lambda: examine("localhost:8080")),
        "half an address": refused(lambda: examine("http://[::1")),
    }
    for name, answers in ENDPOINTS.items():
        with answering(answers) as url:
            said[name] = refused(lambda: examine(url))
    with answering({MODELS: ONE, CHAT: CHATS}) as url:
        right = examine(f"{url}/v1/")
    exhibit.table(list(said.items()), columns=["endpoint", "said"], title="endpoints")
    bad = [name for name, text in said.items() if not is_one_sentence(text)]

    says = exhibit.measured("endpoints accepted or badly told", bad, should_be=[])

    assert not bad, says
    assert (right.model, right.url, list(right.lacking)) == ("x", url, [COMPLETIONS])


HELD = ("10.1", "10.2", "10.3", "10.6")  # of the protocol; the others take their time
BEYOND = ("10.5", "10.12")  # ids in logprobs, and statuses, are mlx_lm.server's own


def serve_another_model(served, scripted):
    return {"served": replace(served, client=scripted.client)}


@pytest.mark.slow
@pytest.mark.claim(id="10.44", falsifier=serve_another_model)
def test_an_endpoint_is_held_to_what_the_protocol_says(served, tmp_path, exhibit):
    """The served model again, as a server that someone else started: pytest in a process of its
    own. Then an endpoint that is none: exit code 4 and one line."""
    report = tmp_path / "results.json"
    name = served.client.settings.get("model", served.path)
    where = ("--endpoint", served.server.url, "--endpoint-model", name)
    claims = ",".join((*HELD, *BEYOND))
    start_pytest(
        "specs", *where, "--model", served.path, "--claim", claims, "--report", report
    ).communicate()
    rows = {row["id"]: (row["verdict"], row.get("reason") or "") for row in claims_in(report)}
    exhibit.table(
        [[id_, *rows.get(id_, ("", ""))] for id_ in (*HELD, *BEYOND)],
        columns=["claim", "verdict", "reason"], title="an endpoint",
    )  # fmt: skip
    with answering({MODELS: (200, "<html></html>")}) as url:
        run = start_pytest("specs", "--endpoint", url, "--model", served.path, "--claim", "10.1")
        _, told = run.communicate()
    verified = [id_ for id_ in rows if rows[id_][0] == "verified"]

    says = exhibit.measured("claims that the endpoint fulfils", verified, should_be=list(HELD))

    assert run.returncode == 4, f"exit code {run.returncode} for HTML"
    assert len(told.strip().splitlines()) == 1, (
        f"message for HTML = {told!r}, but should be one line"
    )
    assert all(rows[id_][0] == "not run" for id_ in BEYOND), (
        "a claim beyond the endpoint's protocol was run"
    )
    assert verified == list(HELD), says


ASKED = ("10.1", "10.2", "10.6")
LASTS = 2  # requests that are answered, those that examine it: then the server ends
TEXTS = (200, json.dumps({"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {}}))


def dying():
    """A handler that answers a few requests, closes the connection at the next, and listens no
    more."""
    answers, asked = handler({MODELS: ONE, CHAT: CHATS, COMPLETIONS: TEXTS}), []

    class Dies(answers):
        def do_POST(self):
            asked.append(self.path)
            if len(asked) <= LASTS:
                return self.do_GET()
            self.server.shutdown()
            self.server.socket.close()

    return Dies


def stay_and_answer_wrongly(monkeypatch):
    monkeypatch.setattr(f"{__name__}.LASTS", 10**6)


@pytest.mark.slow
@pytest.mark.claim(id="0.159", falsifier=stay_and_answer_wrongly)
def test_a_server_that_ends_fails_one_claim_in_one_sentence_and_the_rest_is_not_run(
    served, tmp_path, exhibit
):
    """An endpoint that ends at its third request, and three claims about it."""
    report = tmp_path / "results.json"
    with answering(dying()) as url:
        run = start_pytest(
            "specs", "--endpoint", url, "--model", served.path, "--claim", ",".join(ASKED),
            "--report", report,
        )  # fmt: skip
        said, _ = run.communicate()
    rows = [
        (row["id"], row["verdict"], row.get("reason") or "")
        for row in claims_in(report)
        if row["id"] in ASKED
    ]
    exhibit.table(rows, columns=["claim", "verdict", "reason"], title="an endpoint that ends")
    verdicts = sorted(verdict for _, verdict, _ in rows)

    says = exhibit.measured("verdicts", verdicts, should_be=["not run", "not run", "refuted"])

    assert run.returncode == 1, f"exit code = {run.returncode}, but should be 1"
    assert "exception" not in said, f"not in one sentence: {said}"
    assert verdicts == ["not run", "not run", "refuted"], says
