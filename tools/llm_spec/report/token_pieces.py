"""Strings cut into tokens, arranged so that tokenizers can be compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Piece:
    """One token of a string."""

    text: str
    id: int
    octets: str
    """Its bytes in hexadecimal, spaced; empty where they are not known."""

    @property
    def broken(self) -> bool:
        """Whether it holds only part of a character, so that text cannot show it."""
        return "\ufffd" in self.text and bool(self.octets)


@dataclass
class Cut:
    """One string, as each tokenizer cuts it."""

    text: str
    by_tokenizer: dict[str, list[Piece]] = field(default_factory=dict)


def cuts(exhibits: Iterable[Mapping[str, Any]]) -> list[Cut]:
    """Each string once, with the pieces of every tokenizer that was given it."""
    found: dict[str, Cut] = {}
    for exhibit in exhibits:
        for string in exhibit["strings"]:
            cut = found.setdefault(string["text"], Cut(string["text"]))
            octets = string.get("bytes") or [""] * len(string["ids"])
            cut.by_tokenizer.setdefault(
                exhibit["tokenizer"],
                [
                    Piece(text, id_, _spaced(hexadecimal))
                    for text, id_, hexadecimal in zip(
                        string["pieces"], string["ids"], octets, strict=False
                    )
                ],
            )
    return sorted(found.values(), key=lambda cut: -len(cut.by_tokenizer))


def _spaced(octets: Any) -> str:
    digits = str(octets).replace(" ", "")[:96].upper()
    return " ".join(digits[at : at + 2] for at in range(0, len(digits), 2))
