"""Jobs of one's own for an assistant, read from TOML: what is asked, of which text, and criteria.

```toml
answers = 3                       # answers per job (default 3)
max_tokens = 256                  # of an answer (default 256)

[[job]]
name = "reply"
instruction = "Reply to this e-mail: I will come on Friday."
source = "mail.txt"               # a file beside this one; or: text = "..."
words = [10, 80]                  # from so many words to so many
bullets = [3, 5]                  # from so many bullets to so many
mentions = ["Friday", "budget"]   # each must occur
avoids = ["As an AI"]             # none may occur
grounded = true                   # no number and no name that the text does not hold
own_words = true                  # at most half of the answer is copied
```
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_spec.quality.assistant import Job
from llm_spec.quality.criteria import (
    Criterion,
    has_bullets,
    has_length,
    is_grounded,
    is_not_a_copy,
)

SETTINGS = {"answers": 3, "max_tokens": 256}
CRITERIA = ("words", "bullets", "mentions", "avoids", "grounded", "own_words")
FIELDS = ("name", "instruction", "source", "text", *CRITERIA)


class BadJobs(ValueError):
    """The file of jobs cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class OwnJobs:
    """Jobs, how many answers each gets, and how many tokens an answer may have."""

    jobs: tuple[Job, ...]
    answers: int
    max_tokens: int


def read_jobs(path: Path) -> OwnJobs:
    """Raises BadJobs for a file that cannot be read, or says what no job is."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadJobs(f"{path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadJobs(f"{path} is not TOML: {error}.") from None
    if unknown := document.keys() - SETTINGS.keys() - {"job"}:
        raise BadJobs(f"{path}: {min(unknown)!r} is none of answers, max_tokens and job.")
    numbers = {name: document.get(name, default) for name, default in SETTINGS.items()}
    for name, number in numbers.items():
        if not _is_count(number) or not 1 <= number <= 10_000:
            raise BadJobs(f"{path}: {name} should be a number from 1 to 10,000.")
    entries = document.get("job")
    if not isinstance(entries, list) or not entries:
        raise BadJobs(f"{path} holds no job: write [[job]] with a name and an instruction.")
    jobs = tuple(
        _job(entry, f"{path}, job {i + 1}", path.parent) for i, entry in enumerate(entries)
    )
    names = [job.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadJobs(f"{path}: two jobs are called {twice!r}.")
    return OwnJobs(jobs, **numbers)


def _job(entry: Any, who: str, folder: Path) -> Job:
    if not isinstance(entry, dict):
        raise BadJobs(f"{who} is no table: write [[job]].")
    if unknown := entry.keys() - set(FIELDS):
        raise BadJobs(f"{who}: {min(unknown)!r} is none of {', '.join(FIELDS)}.")
    for name in ("name", "instruction", "source", "text"):
        wanted = name in ("name", "instruction")
        if not isinstance(entry.get(name, None if wanted else "-"), str) or entry.get(name) == "":
            raise BadJobs(f"{who}: {name} should be a text.")
    if "source" in entry and "text" in entry:
        raise BadJobs(f"{who} has both source and text: give one.")
    criteria = tuple(_criteria(entry, who))
    if not criteria:
        raise BadJobs(f"{who} has no criterion: give one of {', '.join(CRITERIA)}.")
    return Job(entry["name"], entry["instruction"], _text(entry, who, folder), criteria)


def _text(entry: Mapping[str, Any], who: str, folder: Path) -> str:
    if "source" not in entry:
        return str(entry.get("text", ""))
    try:
        return (folder / entry["source"]).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise BadJobs(f"{who}: {entry['source']} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadJobs(f"{who}: {entry['source']} is not text in UTF-8.") from None


def _criteria(entry: Mapping[str, Any], who: str) -> list[tuple[str, Criterion]]:
    found: list[tuple[str, Criterion]] = []
    for name, make in (("words", has_length), ("bullets", has_bullets)):
        if name in entry:
            found.append((name, make(*_range(entry[name], f"{who}: {name}"))))
    for name, make_words in (("mentions", _mentions), ("avoids", _avoids)):
        if name in entry:
            found.append((name, make_words(_words(entry[name], f"{who}: {name}"))))
    for name, criterion in (("grounded", is_grounded), ("own_words", is_not_a_copy)):
        if not isinstance(entry.get(name, False), bool):
            raise BadJobs(f"{who}: {name} should be true or false.")
        if entry.get(name):
            found.append((name, criterion))
    return found


def _range(value: Any, what: str) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)):
        least, most = value
        if 0 <= least <= most:
            return least, most
    raise BadJobs(f"{what} should be two numbers, the least and the most, such as [10, 80].")


def _words(value: Any, what: str) -> Sequence[str]:
    if isinstance(value, list) and value and all(isinstance(w, str) and w for w in value):
        return value
    raise BadJobs(f"{what} should be a list of texts.")


def _mentions(words: Sequence[str]) -> Criterion:
    def check(answer: str, source: str) -> str | None:
        missing = [word for word in words if not _holds(answer, word)]
        return f"does not mention {', '.join(missing)}" if missing else None

    return check


def _avoids(words: Sequence[str]) -> Criterion:
    def check(answer: str, source: str) -> str | None:
        found = [word for word in words if _holds(answer, word)]
        return f"says {', '.join(found)}" if found else None

    return check


def _holds(answer: str, word: str) -> bool:
    return re.search(re.escape(word), answer, re.IGNORECASE) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
