"""Text from a vocabulary, made safe to look at.

A model's vocabulary is untrusted: it may hold control characters, direction overrides, lone
surrogates or a piece of ten thousand characters. Escaping for HTML is the template's work; here the
invisible is made visible, so that nothing on the page can reorder, hide or crowd out what stands
beside it.
"""

import unicodedata

PIECE_LIMIT = 48
PROSE_LIMIT = 40_000
MARKS_LIMIT = 6

_JOINERS = "\u200c\u200d"
_PICTURES = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}


def shown(text: str, limit: int | None = None, lines: bool = False) -> str:
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
    if category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return f"⟨{ord(char):04X}⟩"
    return char


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
    inner = shown(text[lead : len(text) - trail], limit) if body else ""
    cut = f"… ({len(text):,} characters)" if not body and len(text) > limit else ""
    return "␣" * lead + inner + "␣" * trail + cut


def words(says: str, limit: int = 90) -> str:
    """The first words of a sentence, for a link or a menu."""
    return says if len(says) <= limit else says[: limit - 1].rsplit(" ", 1)[0] + " …"
