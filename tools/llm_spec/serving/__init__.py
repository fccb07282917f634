"""A server of a model over HTTP, and what the library says in its place."""

from llm_spec.serving.client import Answer, Client, NotAnAnswer
from llm_spec.serving.library import Said, says
from llm_spec.serving.server import MLX_LM, NotServing, Server, free_port

__all__ = [
    "MLX_LM",
    "Answer",
    "Client",
    "NotAnAnswer",
    "NotServing",
    "Said",
    "Server",
    "free_port",
    "says",
]
