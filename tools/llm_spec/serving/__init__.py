"""A server of a model over HTTP, and what the library says in its place."""

from llm_spec.ranks.ring import free_port
from llm_spec.serving.client import Answer, Client, NotAnAnswer, NotOffered
from llm_spec.serving.endpoint import Endpoint, NotAnEndpoint, examine
from llm_spec.serving.library import Said, says
from llm_spec.serving.server import MLX_LM, NotServing, Server

__all__ = [
    "MLX_LM",
    "Answer",
    "Client",
    "Endpoint",
    "NotAnAnswer",
    "NotAnEndpoint",
    "NotOffered",
    "NotServing",
    "Said",
    "Server",
    "examine",
    "free_port",
    "says",
]
