"""Executable claims about local language models on MLX: what looks at a model, without pytest.

    from llm_spec import trace
    from llm_spec import Case, LAWS

`observe` watches a forward pass, `model` says what a model is on paper and on disk, `laws` holds
what every model must keep, `quality` and `performance` measure, `directory` decides whether a
model directory may be trusted, `ledger` and `report` tell what was found.

Importing a name here loads only the module that holds it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_spec.directory import inspect_directory
    from llm_spec.laws import LAWS, Case, Finding
    from llm_spec.observe.head_statistics import attention_statistics
    from llm_spec.observe.trace import logit_lens, trace

__all__ = [
    "LAWS",
    "Case",
    "Finding",
    "attention_statistics",
    "inspect_directory",
    "logit_lens",
    "trace",
]

_HOMES = {
    "LAWS": "llm_spec.laws",
    "Case": "llm_spec.laws",
    "Finding": "llm_spec.laws",
    "attention_statistics": "llm_spec.observe.head_statistics",
    "inspect_directory": "llm_spec.directory",
    "logit_lens": "llm_spec.observe.trace",
    "trace": "llm_spec.observe.trace",
}


def __getattr__(name: str) -> Any:
    """Load an exported name from its home when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'llm_spec' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
