"""Read a safetensors header, and nothing else of the file.

The format: eight bytes (little endian) give the header's length, the header is JSON, and the data
that follow are covered exactly, without gap or overlap, by the tensors that the header names.
A file from the network may claim anything, so every claim is checked before it is used.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# The format's reference implementation refuses longer headers, too.
LONGEST_HEADER = 100_000_000
MOST_AXES = 32
PIECE = 1 << 20  # bytes

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Header:
    """What one file says that it holds; `header_bytes` includes the eight of the length."""

    tensors: dict[str, Tensor] = field(repr=False)
    header_bytes: int
    metadata: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def data_of(path: Path, name: str) -> Iterator[bytes]:
    """The bytes of one tensor of a file whose header was checked, a mebibyte at a time."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + start)
        for at in range(start, end, PIECE):
            yield file.read(min(PIECE, end - at))


def read_header(path: Path) -> Header:
    """Parse and check the header of `path`.

    Raises ValueError with one sentence when the file is not a complete safetensors file.
    """
    try:
        return _read(path)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: the header is not JSON ({error.msg})") from error
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name}: malformed header ({type(error).__name__})") from error


def _read(path: Path) -> Header:
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"truncated, a header of {length} bytes in a file of {size}")
        raw = json.loads(file.read(length), object_pairs_hook=_no_repeats)
    metadata = raw.pop("__metadata__", None) or {}
    spans, tensors = [], {}
    for name, entry in raw.items():
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in BITS:
            raise ValueError(f"{name!r} has an unknown dtype {dtype!r}")
        if len(shape) > MOST_AXES or not all(_is_count(n) for n in (*shape, start, end)):
            raise ValueError(f"{name!r} has a shape or a place that makes no sense")
        if (end - start) * 8 != math.prod(shape) * BITS[dtype]:
            raise ValueError(f"{name!r} is given {end - start} bytes, which its shape contradicts")
        spans.append((start, end))
        tensors[name] = Tensor(dtype, tuple(shape), end - start)
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise ValueError(f"a gap or an overlap at data byte {position}")
        position = end
    if position != size - 8 - length:
        raise ValueError(f"{size - 8 - length} bytes of data where the header promises {position}")
    return Header(tensors, 8 + length, metadata)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("an object of the header names a key twice")
    return entries
