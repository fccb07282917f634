"""How a tokenizer splits text: ids, pieces, and the bytes that each piece stands for.

A piece that holds part of a character decodes to U+FFFD on its own. Its bytes are found through
the byte-level alphabet in which GPT-2's family of tokenizers writes its vocabulary, so that a
broken piece can still be shown.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def tokenization(tokenizer: Any, text: str) -> dict[str, Any]:
    """One string as a `tokens` exhibit wants it.

    >>> tokenization(tokenizer, "Rust")  # Qwen3
    {"text": "Rust", "ids": [49, 590], "pieces": ["R", "ust"], "bytes": ["52", "757374"]}
    """
    ids = encode(tokenizer, text)
    return {
        "text": text,
        "ids": ids,
        "pieces": token_texts(tokenizer, ids),
        "bytes": [piece_bytes(tokenizer, id_).hex() for id_ in ids],
    }


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of `text` alone, without a BOS or any other token that text did not ask for."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def prompt(tokenizer: Any, text: str) -> list[int]:
    """The ids of `text` as a model was trained to read a text: after a BOS, if it was given one."""
    return [*start(tokenizer), *encode(tokenizer, text)]


def start(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: the id of its BOS, or nothing.

    Without it a model that was trained with one predicts badly, and its heads have nothing to park
    their attention on. What a tokenizer puts after a text (an EOS) is not part of this.
    """
    alone, whole = encode(tokenizer, "a"), list(tokenizer.encode("a"))
    places = range(len(whole) - len(alone) + 1)
    return whole[: next((i for i in places if whole[i : i + len(alone)] == alone), 0)]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each id decoded alone."""
    return [tokenizer.decode([id_]) for id_ in ids]


def piece_bytes(tokenizer: Any, id_: int) -> bytes:
    """The bytes that token `id_` adds to a text."""
    piece = tokenizer.convert_ids_to_tokens(id_)
    if piece is None:
        return b""
    if falls_back_on_bytes(tokenizer):
        alone = BYTE_PIECE.fullmatch(piece)
        return bytes([int(alone[1], 16)]) if alone else piece.replace("▁", " ").encode()
    alphabet = byte_alphabet()
    if all(char in alphabet for char in piece):
        return bytes(alphabet[char] for char in piece)
    return piece.encode()  # an added token is written as plain text


def falls_back_on_bytes(tokenizer: Any) -> bool:
    """Whether it spells bytes as SentencePiece does, <0x0A>, and all other pieces as text."""
    id_ = tokenizer.convert_tokens_to_ids("<0x00>")
    return id_ is not None and tokenizer.convert_ids_to_tokens(id_) == "<0x00>"


@cache
def byte_alphabet() -> Mapping[str, int]:
    """Byte-level BPE's printable stand-ins for the 256 bytes, by character."""
    return {char: byte for byte, char in bytes_to_unicode().items()}


def bytes_without_token(tokenizer: Any) -> list[int]:
    """The byte values that no token of a vocabulary stands for alone.

    Text that holds such a byte outside a longer token loses it when encoded.
    """
    vocabulary = tokenizer.get_vocab()
    if falls_back_on_bytes(tokenizer):
        return [byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    return sorted(byte for char, byte in byte_alphabet().items() if char not in vocabulary)
