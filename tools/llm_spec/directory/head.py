"""Whether a head that the files hold is one that the model uses."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

from llm_spec.model.safetensors import data_of, read_header
from llm_spec.text.untrusted import quoted

HEAD, TABLE = "lm_head.weight", "embed_tokens.weight"


def unused(view: Path, model: Any) -> str | None:
    """A sentence about a stored head of its own that a tied model drops; none where it is the
    embedding's copy. Both are read from the files, a piece at a time."""
    if getattr(getattr(model, "args", None), "tie_word_embeddings", False) is not True:
        return None  # what is no boolean is told of by itself
    held = {
        name: (path, tensor)
        for path in sorted(view.glob("model*.safetensors"))
        for name, tensor in read_header(path).tensors.items()
    }
    heads, tables = ([name for name in held if name.endswith(end)] for end in (HEAD, TABLE))
    if len(heads) != 1 or len(tables) != 1:
        return None
    (head, one), (table, other) = (held[heads[0]], held[tables[0]])
    if one.shape == other.shape and (
        one.dtype != other.dtype or _alike(head, heads[0], table, tables[0])
    ):
        return None
    return (
        f"{quoted(heads[0])} is stored and not used: config.json ties the head to "
        f"{quoted(tables[0])}, which holds other numbers; set tie_word_embeddings to false if the "
        "model was trained with a head of its own."
    )


def _alike(path: Path, name: str, other_path: Path, other: str) -> bool:
    pieces = zip_longest(data_of(path, name), data_of(other_path, other))
    return all(one == two for one, two in pieces)
