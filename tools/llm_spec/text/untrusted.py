"""Text that a model directory, a hub or a results file brought along, made safe to look at.

A vocabulary, a config or an error message that quotes them may hold control characters, direction
overrides, lone surrogates or a piece of ten thousand characters. Here the invisible is made
visible, so that nothing can command a terminal, or reorder, hide or crowd out what stands beside
it. Markup is not this module's: templates escape HTML, and `rich.text.Text` reads no markup.
"""

import re
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Any

PIECE_LIMIT = 48
QUOTE_LIMIT = 80
LINE_LIMIT = 160
MARKS_LIMIT = 6
"""So many combining marks of one letter are shown; more would climb over the lines above it."""

_INVISIBLE = ("Cc", "Cf", "Cn", "Cs", "Co", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
_PICTURES = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}


def visible(text: str, limit: int | None = None, lines: bool = False) -> str:
    """`text` with every invisible character replaced by a sign for it.

    Control characters become their pictures, format characters (among them those that set the
    direction of writing), surrogates and private characters their code point, as `⟨202E⟩`. With
    `lines`, line feeds and tabs stay. What exceeds `limit` characters is cut, and the length said.
    """
    head = text if limit is None else text[:limit]
    if len(head) == len(text) and text.isascii() and text.isprintable():
        return text  # most text, and nothing in it to replace
    out: list[str] = []
    marks = 0
    for at, char in enumerate(head):
        category = unicodedata.category(char)
        if category in ("Mn", "Me"):
            marks += 1
            if at == 0:
                out.append("◌")
            if marks > MARKS_LIMIT:
                continue
        else:
            marks = 0
        out.append(_sign(char, category, lines, inside=0 < at < len(text) - 1))
    if len(head) < len(text):
        out.append(f"… ({len(text):,} characters)")
    return "".join(out)


def _sign(char: str, category: str, lines: bool, inside: bool) -> str:
    if lines and char in "\n\t":
        return char
    if char in _PICTURES:
        return _PICTURES[char]
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if char in _JOINERS and inside:
        return char
    return f"⟨{ord(char):04X}⟩" if category in _INVISIBLE else char


def encodable(text: str) -> str:
    """`text` with a sign for each unpaired surrogate: UTF-8 has no bytes for one, so neither a file
    nor pytest-xdist's channel can hold it."""
    return re.sub("[\ud800-\udfff]", lambda found: f"⟨{ord(found[0]):04X}⟩", text)


def all_visible(value: Any) -> Any:
    """Nested mappings and lists, with all text in them made `visible`."""
    if isinstance(value, str):
        return visible(value, 4000, lines=True)
    if isinstance(value, Mapping):
        return {visible(str(key), 120): all_visible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [all_visible(inner) for inner in value]
    return value


def piece(text: str, limit: int = PIECE_LIMIT) -> str:
    """One token as it is shown: spaces at either end visible, an empty one named."""
    if not text:
        return "(empty)"
    body = text[: limit + 1].strip(" ")
    if not body:
        body, lead, trail = "", min(len(text), limit), 0
    else:
        lead = len(text) - len(text.lstrip(" "))
        trail = 0 if len(text) > limit else len(text) - len(text.rstrip(" "))
    if lead > limit:
        body, lead, trail = "", limit, 0
    inner = visible(text[lead : len(text) - trail], limit) if body else ""
    cut = f"… ({len(text):,} characters)" if not body and len(text) > limit else ""
    return "␣" * lead + inner + "␣" * trail + cut


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """`text` on one line of at most `limit` characters, to stand inside a sentence.

    Line feeds and runs of blanks become one space, and a full stop at the end goes: the sentence
    has its own.
    """
    line = visible(" ".join(text[: 10 * limit].split())).rstrip(".")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def quoted(value: Any, limit: int = QUOTE_LIMIT) -> str:
    """A value from a file as Python would write it: in ASCII, at most `limit` characters.

    Letters that look like others are told apart. Nested values are cut short before they are
    written out, so neither depth nor size costs anything.
    """
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 2 * limit
    text = brief.repr(value).encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
