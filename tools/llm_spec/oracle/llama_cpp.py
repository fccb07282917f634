"""llama.cpp, on the GGUF file that a model directory was converted from.

Needs llama-cpp-python (extra: llama-cpp). Whoever calls this does so in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FLOAT32, FLOAT16 = 0, 1  # as ggml numbers types


def logits(path: Path, texts: Sequence[Sequence[int]], cache: int = FLOAT32) -> list[np.ndarray]:
    """Logits (tokens, vocabulary) float32 of each text, its tokens fed at once to an empty cache.

    Args:
        cache: type of the KV cache.
    """
    model = _model(
        path, n_ctx=max(map(len, texts)), n_batch=max(map(len, texts)), logits_all=True,
        type_k=cache, type_v=cache,
    )  # fmt: skip
    computed = []
    for ids in texts:
        model.reset()
        model.eval(list(ids))
        computed.append(np.array(model.scores[: len(ids)], np.float32))
    return computed


def token_ids(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """How llama.cpp splits each text, without a token that the text did not ask for."""
    model = _model(path, vocab_only=True)
    split = [model.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
    return [list(map(int, ids)) for ids in split]


def _model(path: Path, **asked: Any) -> Any:
    from llama_cpp import Llama

    return Llama(str(path), verbose=False, **asked)
