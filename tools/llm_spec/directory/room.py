"""How much memory a whole run of the suite on a model takes at most, read off headers.

The weights are the smaller part for a model with many ids: the suite keeps rows of logits, compares
a second copy of an array with the first, and the tokenizer knows each id several times.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    logits: int
    tokenizer: int
    transient: int
    """A second copy of the largest array, or of all at 8 bits, whichever is larger."""

    @property
    def total(self) -> int:
        """Bytes in all, with the libraries'."""
        parts = (self.stored, self.unpacked, self.logits, self.tokenizer, self.transient)
        return LIBRARIES + sum(parts)


def of_a_run(tensors: Mapping[str, Tensor], config: Mapping[str, Any], unpacked: bool) -> Room:
    """What a run on a model takes at most: `tensors` as their headers state them, by name.
    `unpacked`: whether it is computed with in float32, as on a CPU."""
    stored = {name: tensor.bytes for name, tensor in tensors.items()}
    added = _float32(tensors, config) if unpacked else {}
    held = stored | added
    vocabulary = text_config(dict(config)).get("vocab_size")
    ids = vocabulary if type(vocabulary) is int else 0
    copy_of_all = sum(held.values()) * 9 // 32  # 8 bits, and a scale and a bias per group of 32
    return Room(
        stored=sum(stored.values()),
        unpacked=sum(added.values()),
        logits=ROWS * ids * FLOAT32,
        tokenizer=PER_ID * ids,
        transient=max(copy_of_all, max(held.values(), default=0)),
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
