"""Laws of chats: what a chat template makes of a conversation, as text and as token ids.

They take any tokenizer of mlx-lm (a `TokenizerWrapper`) and hold of those with a chat template.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llm_spec.laws.finding import Finding, law, not_applicable, same
from llm_spec.laws.tokenizer.text import MARKER
from llm_spec.model.release import has_chat_template

ASKS, ANSWERS, ASKS_AGAIN = "Zebra one?", "Yak two.", "Xerus three?"
FIRST, LAST = "Zebra", "six."
ODD = f"""{FIRST} "1 < 2" & 3 > 2: it's {{so}},\n\n\t50 % of $5 \\ [a](b) # ½ é  {LAST}"""
TURNS = ("user", ASKS), ("assistant", ANSWERS), ("user", ASKS_AGAIN)
THOUGHT = ("<think>", "</think>")


def of_a_chat(check: Callable[[Any], Finding]) -> Callable[[Any], Finding]:
    """A law that does not apply where there is no chat template."""

    @law
    @functools.wraps(check)
    def checked(tokenizer: Any) -> Finding:
        if not has_chat_template(tokenizer):
            return not_applicable("it has no chat template")
        return check(tokenizer)

    return checked


@of_a_chat
def a_chat_keeps_what_was_said(tokenizer: Any) -> Finding:
    """The text of a conversation holds every message once, in order, and marks who said which."""
    text = chat(tokenizer, *TURNS)
    said = [message for _, message in TURNS]
    counts = [text.count(message) for message in said]
    if counts != [1, 1, 1]:
        return same("occurrences of each message", counts, [1, 1, 1])
    places = [text.index(message) for message in said]
    if places != sorted(places):
        return same("places of the messages", places, sorted(places))
    # Both follow a message, so that only the roles can make them differ.
    reply, question = between(text, ASKS, ANSWERS), between(text, ANSWERS, ASKS_AGAIN)
    if reply == question:
        return same("what stands before a reply", repr(reply), "other than before a question")
    return same("distinct roles", 2, 2)


@of_a_chat
def a_chat_changes_no_letter(tokenizer: Any) -> Finding:
    """The text of a conversation holds a message as it was written: quotes, signs, line breaks.

    A template that writes it for a web page or as JSON does not.
    """
    text = chat(tokenizer, ("user", ODD), *TURNS[1:])
    if ODD in text:
        return same("a message in the text of a chat", "as it was written", "as it was written")
    if FIRST not in text or LAST not in text:
        return same("messages that the chat template leaves out", [ODD], [])
    written = text[text.index(FIRST) : text.index(LAST) + len(LAST)]
    return same("a message in the text of a chat", repr(written), repr(ODD))


@of_a_chat
def a_reply_ends(tokenizer: Any) -> Finding:
    """In a conversation's token ids a finished reply is followed by one that ends generation.

    Where a template closes no turn, that is the token which opens the next one.
    """
    finished, continued = chat(tokenizer, *TURNS[:2]), chat(tokenizer, *TURNS)
    if lacking := missing(finished, TURNS[:2]) or missing(continued, TURNS):
        return lacking
    after = between(finished, ANSWERS), between(continued, ANSWERS, ASKS_AGAIN)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in after]
    ends = set(tokenizer.eos_token_ids)
    if any(ends & set(each) for each in ids):
        return same("an end after a reply", "there", "there")
    tokens = [tokenizer.decode([id_]) for id_ in ids[0] or ids[1]]
    should_be = f"tokens with one of {[tokenizer.decode([end]) for end in sorted(ends)]}"
    return same("what follows a reply", tokens, should_be)


@of_a_chat
def an_end_opens_no_reply(tokenizer: Any) -> Finding:
    """No id that ends a text stands in what invites a reply, but for what closes the turn before.

    Where the ids of markers were mixed up, the marker that begins a turn ends the text.
    """
    finished, plain, prompt = (
        chat(tokenizer, *TURNS[:2]),
        chat(tokenizer, *TURNS[:1]),
        chat(tokenizer, *TURNS[:1], add_generation_prompt=True),
    )
    lacking = missing(finished, TURNS[:2]), missing(plain, TURNS[:1]), missing(prompt, TURNS[:1])
    if any(lacking):
        return next(filter(None, lacking))
    replied, asked, opening = (
        tokenizer.encode(between(text, said), add_special_tokens=False)
        for text, said in ((finished, ANSWERS), (plain, ASKS), (prompt, ASKS))
    )
    if not opening:
        return not_applicable("its chat template writes nothing before a reply")
    ends = sorted(set(tokenizer.eos_token_ids) & set(opening) - {*replied, *asked})
    told = [f"{end} ({tokenizer.decode([end])!r})" for end in ends]
    return same("ids that end a text and open a reply", told, [])


@of_a_chat
def markers_are_tokens(tokenizer: Any) -> Finding:
    """A marker that the chat template writes is one token if the vocabulary holds the marker.

    Else the model reads letters where it learned a token. So are markers that stand in the template
    for other conversations (tools, thoughts), also where letters touch them. Some templates write
    markers that never were tokens: these are named, and no fault.
    """
    text = chat(tokenizer, *TURNS, add_generation_prompt=True)
    vocabulary = tokenizer.get_vocab()
    written = MARKER.findall(text)
    ids = tokenizer.encode(text, add_special_tokens=False)
    markers = dict.fromkeys([*written, *MARKER.findall(str(tokenizer.chat_template))])
    cut = []
    for marker in [marker for marker in markers if marker in vocabulary]:
        id_ = vocabulary[marker]
        where = _cut_in(tokenizer, marker, id_)
        if where or ids.count(id_) < written.count(marker):
            where = where or marker
            cut.append(f"{where!r} is {tokenizer.encode(where, add_special_tokens=False)}")
    never = [repr(marker) for marker in dict.fromkeys(written) if marker not in vocabulary]
    others = f" (never tokens: {', '.join(never)})" if never else ""
    return same(f"markers that are not the one token that they have{others}", cut, [])


def _cut_in(tokenizer: Any, marker: str, id_: int) -> str | None:
    """Where a marker is not its token: by itself or, if it was added to the vocabulary, between
    letters. What was merged of pieces may be cut there."""
    added = id_ in getattr(tokenizer, "added_tokens_decoder", ())
    texts = [marker, f"a{marker}b"] if added else [marker]
    cut = (text for text in texts if id_ not in tokenizer.encode(text, add_special_tokens=False))
    return next(cut, None)


@of_a_chat
def a_prompt_invites_a_reply(tokenizer: Any) -> Finding:
    """The generation prompt agrees with the template's assistant prefix: one begins the other.

    Templates may open or close a thought on one side, so that is left out, and one may be the
    beginning of the other; some have no header before a reply, and then no generation prompt.
    """
    whole, plain, prompted = (
        chat(tokenizer, *TURNS[:2]),
        chat(tokenizer, *TURNS[:1]),
        chat(tokenizer, *TURNS[:1], add_generation_prompt=True),
    )
    lacking = missing(whole, TURNS[:2]), missing(plain, TURNS[:1]), missing(prompted, TURNS[:1])
    if any(lacking):
        return next(filter(None, lacking))
    thought = {*THOUGHT, tokenizer.think_start or "", tokenizer.think_end or ""} - {""}
    header, plain, prompt = (
        _without(text, thought)
        for text in (between(whole, ASKS, ANSWERS), between(plain, ASKS), between(prompted, ASKS))
    )
    fits = header.startswith(prompt) or prompt.startswith(header)
    if fits and (prompt != plain or header == plain):
        return same("generation prompt", repr(prompt), repr(prompt))
    return same("generation prompt", repr(prompt), repr(header))


def _without(text: str, markers: set[str]) -> str:
    for marker in markers:
        text = text.replace(marker, "")
    return text.strip()


def chat(
    tokenizer: Any, *turns: tuple[str, str], add_generation_prompt: bool = False, **options: Any
) -> str:
    """The text of (role, content) turns."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
        )
    )


def missing(text: str, turns: tuple[tuple[str, str], ...]) -> Finding | None:
    """A finding where the text of a conversation lacks one of its messages."""
    lacking = [message for _, message in turns if message not in text]
    return same("messages that the chat template leaves out", lacking, []) if lacking else None


def between(text: str, before: str, after: str | None = None) -> str:
    """What stands behind a message, up to another or the end."""
    rest = text[text.index(before) + len(before) :]
    return rest if after is None else rest.partition(after)[0]


CHAT_LAWS = (
    a_chat_keeps_what_was_said,
    a_chat_changes_no_letter,
    a_reply_ends,
    an_end_opens_no_reply,
    a_prompt_invites_a_reply,
    markers_are_tokens,
)
