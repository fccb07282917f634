"""A client of the OpenAI protocol, as `/v1/completions` and `/v1/chat/completions` speak it."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import httpx2

from llm_spec.text.untrusted import one_line

NOTHING: Mapping[str, Any] = MappingProxyType({})
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
AGAIN = 2  # times that OpenAI's own client repeats a request by default


class NotAnAnswer(Exception):
    """The server gave no answer of the protocol. The text says what it gave, in one sentence."""


class NotOffered(Exception):
    """The server is known not to offer what is asked. The text says so in one sentence."""


@dataclass(frozen=True)
class Answer:
    """What a server answered: the status, and the JSON object of the body. Not to be trusted."""

    status: int
    body: Mapping[str, Any]

    @property
    def choice(self) -> Mapping[str, Any]:
        """The first choice. Raises `NotAnAnswer` where there is none."""
        try:
            choice: Mapping[str, Any] = self.body["choices"][0]
        except (KeyError, IndexError, TypeError):
            said = one_line(json.dumps(self.body))
            raise NotAnAnswer(f"status {self.status} without a choice: {said}.") from None
        return choice

    @property
    def text(self) -> str:
        """The text of the first choice; the content of its message for a chat."""
        choice = self.choice
        found = choice["message"]["content"] if "message" in choice else choice["text"]
        return found or ""

    @property
    def finish_reason(self) -> str:
        return str(self.choice["finish_reason"])

    @property
    def tokens(self) -> list[Mapping[str, Any]]:
        """An entry per token where logprobs were asked for: id, logprob and what else it holds."""
        return list((self.choice.get("logprobs") or {}).get("content", ()))

    @property
    def ids(self) -> list[int]:
        return [entry["id"] for entry in self.tokens]

    @property
    def logprobs(self) -> list[float]:
        """Natural logarithms, one per token."""
        return [entry["logprob"] for entry in self.tokens]

    @property
    def counted(self) -> tuple[int, int, int]:
        """Tokens of the prompt, of the answer and of both, as `usage` states them."""
        usage = self.body["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


class Client:
    """Requests to one server, each over a connection of its own; safe to use from many threads.

    Args:
        url: where the server is, without `/v1`.
        seconds: the longest silence of the server.
        wire: what carries the requests; httpx2's own by default.
        settings: what every request asks for that does not say otherwise, such as a model.
        lacking: a sentence for each path that the server does not offer: a request to it raises
            `NotOffered`.
        why: a sentence more for a request that gets no answer, such as the server's last words.

    `http` is what sends: it can be given to other clients of the same server.
    `turned_away` lists the paths whose connection broke before an answer began: they are asked for
    again, `AGAIN` times. mlx_lm.server lets five connections wait; a busy machine resets the rest.
    """

    def __init__(
        self, url: str, seconds: float = 60, wire: httpx2.BaseTransport | None = None,
        settings: Mapping[str, Any] = NOTHING, lacking: Mapping[str, str] = NOTHING,
        why: Callable[[], str] = str,
    ) -> None:  # fmt: skip
        self.settings, self.lacking, self._why = dict(settings), lacking, why
        self.turned_away: list[str] = []
        # Proxies that the environment names are for the network, not for this machine. Certificates
        # take a third of a second to load, and HTTP has none.
        self.http = httpx2.Client(
            base_url=url, timeout=seconds, transport=wire, trust_env=False,
            verify=url.startswith("https:"),
            headers={"Connection": "close", "Content-Type": "application/json"},
        )  # fmt: skip

    def close(self) -> None:
        self.http.close()

    def complete(self, prompt: str, **settings: Any) -> Answer:
        """What follows `prompt`. Raises `NotAnAnswer`, also for a status that is no success."""
        return self.ask(COMPLETIONS, {"prompt": prompt, **settings})

    def chat(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> Answer:
        """The answer to `messages`. Raises `NotAnAnswer`, also for a status that is no success."""
        return self.ask(CHAT, {"messages": messages, **settings})

    def ask(self, path: str, body: Mapping[str, Any]) -> Answer:
        """The answer to `body`. Raises `NotAnAnswer`, also for a status that is no success."""
        answer = self.post(path, json.dumps({**self.settings, **body}).encode())
        if answer.status != 200:
            said = one_line(json.dumps(answer.body))
            raise NotAnAnswer(f"status {answer.status} for a valid request: {said}.")
        return answer

    def pieces(self, path: str, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The chunks of a streamed answer, in order. Raises `NotAnAnswer` for anything else, and
        where the stream ends before it says that it is done."""
        asked = {**self.settings, **body, "stream": True}
        response = self._sent("POST", path, json.dumps(asked).encode())
        lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
        if response.status_code != 200 or not lines or lines[-1] != "data: [DONE]":
            said = one_line(response.text)
            raise NotAnAnswer(f"status {response.status_code} and no whole stream: {said}.")
        return [_object(line.removeprefix("data: "), 200) for line in lines[:-1]]

    def post(self, path: str, content: bytes) -> Answer:
        """The answer to any bytes, whatever its status. Raises `NotAnAnswer` if it is no JSON."""
        response = self._sent("POST", path, content)
        return Answer(response.status_code, _object(response.text, response.status_code))

    def get(self, path: str) -> Answer:
        """The same for a GET."""
        response = self._sent("GET", path)
        return Answer(response.status_code, _object(response.text, response.status_code))

    def leave(self, path: str, body: Mapping[str, Any], after: int = 0) -> int:
        """Ask for a streamed answer, and close the connection once it begins, or after so many
        chunks of it: how many came."""
        content = json.dumps({**self.settings, **body, "stream": True}).encode()
        with closing(self._begun("POST", path, content)) as response:
            if not after:
                next(response.iter_bytes(), None)
                return 0
            chunks = (line for line in response.iter_lines() if line.startswith("data: "))
            return len(list(islice(chunks, after)))

    def _sent(self, method: str, path: str, content: bytes | None = None) -> httpx2.Response:
        if path in self.lacking:
            raise NotOffered(self.lacking[path])
        try:
            with closing(self._begun(method, path, content)) as response:
                response.read()
            return response
        except httpx2.HTTPError as error:
            said = one_line(str(error)) or type(error).__name__
            raise NotAnAnswer(
                f"no answer to {method} {path}: {said}. {self._why()}".rstrip()
            ) from error

    def _begun(self, method: str, path: str, content: bytes | None) -> httpx2.Response:
        """An answer whose body is still to be read. Raises `httpx2.HTTPError`."""
        request = self.http.build_request(method, path, content=content)
        for _ in range(AGAIN):
            with suppress(httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
                return self.http.send(request, stream=True)
            self.turned_away.append(path)
        return self.http.send(request, stream=True)


def _object(text: str, status: int) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        said = one_line(text) or "nothing"
        raise NotAnAnswer(f"status {status} and no JSON object: {said}.")
    return found
