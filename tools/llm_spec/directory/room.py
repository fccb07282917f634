"""How much memory a whole run of the suite takes at most, read off the headers of its models.

The weights are the smaller part for a model with many ids: the suite loads a model once more beside
itself, keeps rows of logits, and the tokenizer knows each id several times. Measured peaks are 0.7
to 1.0 of what is predicted (claim 0.96).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_spec.model.config import text_config
from llm_spec.model.safetensors import Tensor

FLOATS = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}
FLOAT32 = 4  # bytes
LIBRARIES = 330_000_000  # bytes of Python, MLX, transformers and pytest
PER_ID = 1_700  # bytes of a tokenizer per id; 1,500 measured with 262,144 ids, 1,040 with 49,152
ROWS = 270  # rows of float32 logits at once: the longest prompt of a law, and what laws keep


@dataclass(frozen=True)
class Room:
    """Bytes at the suite's peak, by what they hold."""

    stored: int
    unpacked: int
    """The float32 copy that a CPU computes with; 0 where it computes with what is stored."""
    working: int
    """Rows of logits, or the largest array while another is made of it, whichever is larger."""
    tokenizer: int
    copy: int
    """A second copy of one model, as it computes: loaded afresh, or with other weights."""

    @property
    def total(self) -> int:
        """Bytes in all, with the libraries'."""
        parts = (self.stored, self.unpacked, self.working, self.tokenizer, self.copy)
        return LIBRARIES + sum(parts)


def of_a_run(
    models: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Any]]], unpacked: bool
) -> Room:
    """What a run takes at most that holds `models` at once: of each the tensors by name, as their
    headers state them, and what config.json says. `unpacked`: whether they compute in float32, as
    on a CPU."""
    rooms = [_of_one(tensors, config, unpacked) for tensors, config in models]
    return Room(
        stored=sum(room.stored for room in rooms),
        unpacked=sum(room.unpacked for room in rooms),
        working=max(room.working for room in rooms),
        tokenizer=sum(room.tokenizer for room in rooms),
        copy=max(room.copy for room in rooms),
    )


def _of_one(tensors: Mapping[str, Tensor], config: Mapping[str, Any], unpacked: bool) -> Room:
    stored = {name: tensor.bytes for name, tensor in tensors.items()}
    added = _float32(tensors, config) if unpacked else {}
    vocabulary = text_config(dict(config)).get("vocab_size")
    ids = vocabulary if type(vocabulary) is int else 0
    return Room(
        stored=sum(stored.values()),
        unpacked=sum(added.values()),
        working=max([ROWS * ids * FLOAT32, *(stored | added).values()]),
        tokenizer=PER_ID * ids,
        copy=sum((stored | added).values()),
    )


def _float32(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of what unpacking to float32 adds, by tensor: nothing for what is float32 already."""
    packing = config.get("quantization") or {}
    default = packing.get("bits", 4)
    added = {}
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        if tensor.dtype == "U32" and f"{module}.scales" in tensors:
            own = packing.get(module)
            bits = own.get("bits", default) if isinstance(own, dict) else default
            added[name] = FLOAT32 * (8 * tensor.bytes // bits)
        elif tensor.dtype in FLOATS - {"F32", "F64"} and not name.endswith((".scales", ".biases")):
            added[name] = FLOAT32 * (tensor.bytes // (1 if tensor.dtype.startswith("F8") else 2))
    return added
