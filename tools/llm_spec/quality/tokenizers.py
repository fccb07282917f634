"""Whether two tokenizers are one: what each gives on texts, and what their files say."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
NAMED = 3  # examples in a sentence
MOST = 60  # characters of an example


@dataclass(frozen=True)
class Difference:
    """One thing in which a tokenizer is not its reference's."""

    part: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.part}: {self.ours}, where the reference has {self.theirs}"


def differences_of_ids(
    tokenizer: Any, reference: Any, texts: Mapping[str, str]
) -> list[Difference]:
    """Where two tokenizers give other ids: on the texts, in the vocabulary, by their merges."""
    found = [
        Difference(f"ids of the text {name!r} from token {at} on", _short(a[at:]), _short(b[at:]))
        for name, text in texts.items()
        for a, b in [(list(tokenizer.encode(text)), list(reference.encode(text)))]
        if a != b
        for at in [next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))]
    ]
    ours, theirs = tokenizer.get_vocab(), reference.get_vocab()
    moved = sorted(t for t in ours.keys() & theirs.keys() if ours[t] != theirs[t])
    if moved:
        found.append(
            Difference(
                f"ids of {len(moved)} tokens of the vocabulary",
                _named({token: ours[token] for token in moved}),
                _named({token: theirs[token] for token in moved}),
            )
        )
    only_ours, only_theirs = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    if only_ours or only_theirs:
        lists = (sorted(each) for each in (only_ours, only_theirs))
        found.append(Difference("tokens of one alone", *map(_counted, lists)))
    merges, others = _merges(tokenizer), _merges(reference)
    if merges != others:
        at = next(
            (i for i, (x, y) in enumerate(zip(merges, others)) if x != y),
            min(len(merges), len(others)),
        )
        part = f"merges, {len(merges)} and {len(others)}, from number {at} on"
        found.append(Difference(part, _short(merges[at:]), _short(others[at:])))
    return found


def differences_of_markers(tokenizer: Any, reference: Any) -> list[Difference]:
    """Where two tokenizers have other special tokens, or another chat template."""
    found = []
    for role in ROLES:
        ours, theirs = getattr(tokenizer, role, None), getattr(reference, role, None)
        if ours != theirs:
            found.append(Difference(role, repr(ours), repr(theirs)))
    ours, theirs = (set(each.all_special_tokens) for each in (tokenizer, reference))
    if ours != theirs:
        lists = (sorted(each) for each in (ours - theirs, theirs - ours))
        found.append(Difference("special tokens of one alone", *map(_counted, lists)))
    ends, others = (
        sorted(getattr(each, "eos_token_ids", None) or ()) for each in (tokenizer, reference)
    )
    if ends != others:
        found.append(Difference("ids that end a text", str(ends), str(others)))
    ours, theirs = (_template(each) for each in (tokenizer, reference))
    if ours != theirs:
        at = next((i for i, (x, y) in enumerate(zip(ours, theirs)) if x != y), None)
        at = min(len(ours), len(theirs)) if at is None else at
        part = f"chat template from character {at} on"
        found.append(Difference(part, _short(ours[at:]), _short(theirs[at:])))
    return found


def _merges(tokenizer: Any) -> list[str]:
    """The merges of a BPE, in order; none where the tokenizer has none to show."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    model = json.loads(backend.to_str()).get("model", {})
    merges = model.get("merges") or []
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def _counted(tokens: list[str]) -> str:
    return f"{len(tokens)} ({_short(tokens)})" if tokens else "none"


def _named(ids: Mapping[str, int]) -> str:
    few = list(ids.items())[:NAMED]
    return ", ".join(f"{token!r} {id_}" for token, id_ in few)


def _short(values: Iterable[Any] | str) -> str:
    if isinstance(values, str):
        return repr(values[:MOST])
    few = list(values)[:NAMED]
    return ", ".join(repr(each)[:MOST] for each in few) or "nothing"
