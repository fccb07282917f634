"""Another server of the OpenAI protocol, somewhere: what it lists, and what it offers."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from llm_spec.serving.client import CHAT, COMPLETIONS, Client, NotAnAnswer
from llm_spec.text.untrusted import one_line

GREEDY = MappingProxyType({"temperature": 0.0})
TRIED: Mapping[str, Mapping[str, Any]] = {
    COMPLETIONS: {"prompt": "a", "max_tokens": 1},
    CHAT: {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
}


CONNECTING = 5.0  # seconds


class NotAnEndpoint(Exception):
    """No server of the OpenAI protocol is there. The text says what is, in one sentence."""


@dataclass(frozen=True)
class Endpoint:
    """A server that this process did not start."""

    url: str
    """Without `/v1`."""
    model: str
    """The name under which it serves the model."""
    lacking: Mapping[str, str]
    """A sentence for each path that it does not offer."""

    @property
    def is_running(self) -> bool:
        """Whether something listens there."""
        where = urlsplit(self.url)
        port = where.port or (443 if where.scheme == "https" else 80)
        try:
            socket.create_connection((where.hostname or "", port), timeout=CONNECTING).close()
        except OSError:
            return False
        return True

    def client(self, **options: Any) -> Client:
        """A client that asks for this model, greedily where a request says nothing else."""
        settings = {"model": self.model, **GREEDY}
        return Client(self.url, settings=settings, lacking=self.lacking, **options)


def examine(url: str, model: str | None = None, seconds: float = 60) -> Endpoint:
    """Ask the server at `url` what it lists, and whether it answers each kind of request.

    `model` is the name of the model there: without it, the only one that is listed.

    Raises:
        NotAnEndpoint: nothing answers, something else does, or it is unclear which model is meant.
    """
    url = url.rstrip("/").removesuffix("/v1")
    if not _is_address(url):
        raise NotAnEndpoint(f"{one_line(url)!r} is no address of a server: write http://host:port.")
    client = Client(url, seconds=seconds)
    try:
        name = model or _only_model(client, url)
        lacking = {path: why for path in TRIED if (why := _refusal(client, path, name))}
    finally:
        client.close()
    if len(lacking) == len(TRIED):
        raise NotAnEndpoint(f"{url} answers no request for {name!r}: {lacking[CHAT]}")
    return Endpoint(url, name, lacking)


def _is_address(url: str) -> bool:
    try:
        where = urlsplit(url)
        return where.scheme in ("http", "https") and bool(where.hostname) and where.port != 0
    except ValueError:  # half of an IPv6 address, or a port that is no number or beyond 65,535
        return False


def _only_model(client: Client, url: str) -> str:
    try:
        answer = client.get("/v1/models")
    except NotAnAnswer as problem:
        raise NotAnEndpoint(f"No server of the OpenAI protocol at {url}: {problem}") from None
    listed = answer.body.get("data")
    try:
        names = [str(entry["id"]) for entry in listed or ()]
    except (TypeError, KeyError):
        names = []
    if answer.status != 200 or not names:
        raise NotAnEndpoint(f"{url} lists no models: status {answer.status}.")
    if len(names) > 1:
        told = one_line(", ".join(names[:5]))
        raise NotAnEndpoint(f"{url} lists several models, {told}: name one by --endpoint-model.")
    return names[0]


def _refusal(client: Client, path: str, model: str) -> str | None:
    """Why a request to `path` gets no answer, in one sentence; None where it gets one."""
    try:
        client.ask(path, {"model": model, **GREEDY, **TRIED[path]}).choice  # noqa: B018
    except NotAnAnswer as problem:
        return f"The server does not offer {path}: {problem}"
    return None
