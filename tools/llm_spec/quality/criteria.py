"""What an assistant's answer must be: criteria that a program can check, each with its reason.

They judge form and faithfulness, not style. A criterion takes an answer and the text it was given
and returns None if it is met, or one sentence that says why not.
"""

import re
from collections.abc import Callable, Sequence

Criterion = Callable[[str, str], str | None]

BULLET = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+(?=\S)", re.MULTILINE)
WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
SENTENCE_START = re.compile(r"(?:^|[.!?:;]\s+|\n\s*)[^A-Za-z\n]*$")
HEADING = re.compile(r"^#+ .*$|\*\*.+?\*\*|^[^.:\n]{1,60}:\s*$", re.MULTILINE)
FIRST_PERSON = re.compile(r"\b(?:I|me|[Mm]y|mine|[Ww]e|us|[Oo]urs?)\b")
PRONOUNS = {"i"}
SPELLED = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip
COPIED_RUN = 8  # words in a row; shorter runs are shared by chance and by quoting a term


def has_bullets(least: int, most: int) -> Criterion:
    """Between so many bullets and so many, each of at least four words."""
    wanted = str(least) if least == most else f"{least} to {most}"

    def check(answer: str, source: str) -> str | None:
        bullets = BULLET.split(answer)[1:]
        if not least <= len(bullets) <= most:
            return f"{len(bullets)} bullets, but should be {wanted}"
        short = [part for part in bullets if len(WORD.findall(part.split("\n\n")[0])) < 4]
        return f"{len(short)} bullets of fewer than four words" if short else None

    return check


def has_length(least: int, most: int) -> Criterion:
    """Between so many words and so many."""

    def check(answer: str, source: str) -> str | None:
        words = len(answer.split())
        return None if least <= words <= most else f"{words} words, but should be {least} to {most}"

    return check


def mentions(subjects: Sequence[str], least: int) -> Criterion:
    """At least so many of these subjects of the source; each is a regular expression."""

    def check(answer: str, source: str) -> str | None:
        found = [each for each in subjects if re.search(rf"\b(?:{each})", answer, re.IGNORECASE)]
        if len(found) >= least:
            return None
        return f"{len(found)} of the source's {len(subjects)} subjects, but should be {least}"

    return check


def is_grounded(answer: str, source: str) -> str | None:
    """No number and no name that the source does not hold.

    A name is a capitalised word inside a sentence, or any word with a capital after its first
    letter; headings and bold type, where common words are capitalised too, are searched for
    numbers only. Numbers up to twelve may be written out. The numbers of bullets do not count.
    """
    text = BULLET.sub("\n", answer)
    given = {*_numbers(source), "1"}  # "one" is more often a pronoun than a number
    invented = [number for number in _numbers(text) if number not in given]
    known = {_bare(word) for word in WORD.findall(source)}
    text = HEADING.sub("\n", text)
    for match in WORD.finditer(text):
        word = match.group()
        starts = SENTENCE_START.search(text[: match.start()]) is not None
        capitals = word[0].isupper() and not starts
        name = capitals or (len(word) > 1 and not word[1:].islower())
        if name and _bare(word) not in known | PRONOUNS:
            invented.append(word)
    return f"not in the source: {', '.join(dict.fromkeys(invented))}" if invented else None


def is_not_a_copy(answer: str, source: str) -> str | None:
    """At most half of the answer consists of runs of eight or more words taken from the source."""
    words, given = _words(answer), _words(source)
    runs = {tuple(given[i : i + COPIED_RUN]) for i in range(len(given) - COPIED_RUN + 1)}
    copied: set[int] = set()
    for i in range(len(words) - COPIED_RUN + 1):
        if tuple(words[i : i + COPIED_RUN]) in runs:
            copied.update(range(i, i + COPIED_RUN))
    share = len(copied) / len(words) if words else 0
    return f"{share:.0%} of the words are copied" if share > 0.5 else None


def moves(old: str, new: str) -> Criterion:
    """The answer accepts a meeting's move from one day to another, and never the other way."""

    def check(answer: str, source: str) -> str | None:
        text = " ".join(answer.lower().split())
        old_day, new_day = old.lower(), new.lower()
        if new_day not in text:
            return f"{new} is not mentioned"
        if re.search(rf"\bto (?:\w+ ){{0,2}}{old_day}|{new_day} to {old_day}", text):
            return f"moves the meeting to {old}"
        if re.search(rf"\b(?:see|meet|meeting|join) (?:\w+ ){{0,3}}on {old_day}", text):
            return f"keeps the meeting on {old}"
        if re.search(rf"(?:can(?:no|')t|unable|impossible|not) (?:\w+ ){{0,4}}{new_day}", text):
            return f"refuses {new}"
        return None

    return check


def speaks_for_the_asked(asked: Sequence[str]) -> Criterion:
    """The reply speaks in the first person, and holds none of the sender's own sentences.

    `asked` are regular expressions for what only the sender would write.
    """

    def check(answer: str, source: str) -> str | None:
        if not FIRST_PERSON.search(answer):
            return "speaks about the email and not in the first person"
        found = [each for each in asked if re.search(each, answer, re.IGNORECASE)]
        return f"repeats the sender's part: {', '.join(found)}" if found else None

    return check


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))


def _bare(word: str) -> str:
    return re.sub(r"['’].*", "", word).lower()


def _numbers(text: str) -> list[str]:
    """Every number of a text in digits; of a time, the hour too."""
    found = [number.replace(",", "") for number in NUMBER.findall(text)]
    hours = [number.partition(":")[0] for number in found if ":" in number]
    spelled = [SPELLED[word] for word in _words(text) if word in SPELLED]
    return [*found, *hours, *spelled]
