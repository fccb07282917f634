"""What a chat template takes: system messages, tools, thoughts, and what it fails with.

`support` tries each on mlx-lm's tokenizer and reports the outcome.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llm_spec.text.untrusted import one_line

ASKS, ANSWERS, ASKS_AGAIN, ANSWERS_AGAIN = "Zebra one?", "Yak two.", "Xerus three?", "Wombat four."
SYSTEM, TOOL, PLACE, RESULT = "Vole five.", "look_up_vole", "Quito", "Umbra seven."
FUNCTION = {
    "name": TOOL,
    "description": "Looks a vole up.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "description": "Where it lives."}},
        "required": ["place"],
    },
}
TOOLS = [{"type": "function", "function": FUNCTION}]
# Nine letters and digits, which is the only kind that Mistral's templates take.
CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": TOOL, "arguments": {"place": PLACE}},
}
IN_PARTS = {"role": "user", "content": [{"type": "text", "text": ASKS}]}
CALLED, BY_THE_SYSTEM = "a tool call and its result", "a system message"
USER = {"role": "user", "content": ASKS}
REPLY = {"role": "assistant", "content": ANSWERS}
AGAIN = {"role": "user", "content": ASKS_AGAIN}


@dataclass(frozen=True)
class Trial:
    """One thing that an assistant may send: a conversation, options, and what its text must hold.

    `judged` is false where mlx-lm never gives a template such a thing.
    """

    title: str
    messages: list[dict[str, Any]]
    holds: tuple[str, ...]
    options: dict[str, Any]
    judged: bool = True


def _trial(title: str, *messages: dict[str, Any], holds: tuple[str, ...], **more: Any) -> Trial:
    judged = more.pop("judged", True)
    return Trial(title, list(messages), holds, {"add_generation_prompt": True, **more}, judged)


TRIALS = (
    _trial("a question", USER, holds=(ASKS,)),
    _trial(
        "two replies", USER, REPLY, AGAIN, {"role": "assistant", "content": ANSWERS_AGAIN}, USER,
        holds=(ASKS, ANSWERS, ASKS_AGAIN, ANSWERS_AGAIN),
    ),
    _trial(
        BY_THE_SYSTEM, {"role": "system", "content": SYSTEM}, USER, holds=(SYSTEM, ASKS)
    ),
    _trial("tools", USER, holds=(ASKS, TOOL), tools=TOOLS),
    _trial(
        CALLED, USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": TOOL, "tool_call_id": CALL["id"], "content": RESULT},
        holds=(ASKS, TOOL, PLACE, RESULT), tools=TOOLS,
    ),
    # mlx-lm joins the parts of a text before a template sees them.
    _trial(
        "content in typed parts", IN_PARTS, holds=(ASKS,), judged=False,
    ),
)  # fmt: skip
THINKING, IGNORES = "thoughts on and off", "ignores it"
# What templates ask whether to think, or how much: of Qwen3 and others, DeepSeek and Granite, and
# gpt-oss.
SWITCHES: dict[str, tuple[Any, Any]] = {
    "enable_thinking": (True, False),
    "thinking": (True, False),
    "reasoning_effort": ("high", "low"),
}


@dataclass(frozen=True)
class Support:
    """The outcome of a trial. `fails` if the template did not itself refuse, as it may."""

    title: str
    says: str
    fails: bool = False


def support(tokenizer: Any) -> list[Support]:
    """Try everything on a tokenizer with a chat template."""
    return [*(_tried(tokenizer, trial) for trial in TRIALS), _thinking(tokenizer)]


def _tried(tokenizer: Any, trial: Trial) -> Support:
    found = _read(tokenizer, trial)
    if trial.title == BY_THE_SYSTEM and found.says.startswith(IGNORES):
        return _unless_written_empty(tokenizer, trial, found)
    if not found.fails:
        return found
    # What clients send as text mlx-lm's server hands on parsed, and parts of a text joined: which
    # no template is wrong not to expect where it takes what was sent.
    if trial.title == CALLED and not _read(tokenizer, _with_text_for_arguments(trial)).fails:
        return Support(trial.title, f"with a call's arguments as text alone ({found.says})")
    if trial.messages == [USER] and not trial.options.get("tools"):
        parts = _read(tokenizer, Trial(trial.title, [IN_PARTS], trial.holds, trial.options))
        if parts.says == "yes":
            return Support(
                trial.title, "no: it takes content in typed parts alone, and mlx-lm gives it text",
                fails=True,
            )  # fmt: skip
    return found


def _unless_written_empty(tokenizer: Any, trial: Trial, found: Support) -> Support:
    """What was found, if the text is the same without the first message: a template may ignore
    it. One that writes something else for it, and not what it says, has lost it."""

    def with_it(text: str) -> Support:
        def without_it(other: str) -> Support:
            says = "no: it writes something for the message, but not what the message says"
            return found if text == other else Support(trial.title, says, fails=True)

        return _rendered(tokenizer, trial.title, trial.messages[1:], trial.options, without_it)

    return _rendered(tokenizer, trial.title, trial.messages, trial.options, with_it)


def _with_text_for_arguments(trial: Trial) -> Trial:
    function = {"name": TOOL, "arguments": json.dumps({"place": PLACE})}
    asks, call, *rest = trial.messages
    call = {**call, "tool_calls": [{**CALL, "function": function}]}
    return replace(trial, messages=[asks, call, *rest])


def _read(tokenizer: Any, trial: Trial) -> Support:
    def read(text: str) -> Support:
        lacking = [word for word in trial.holds if word not in text]
        if IN_PARTS in trial.messages and ("{'type'" in text or '{"type": "text"' in text):
            return Support(trial.title, "no: it writes the list as it is")
        # A message of a user is never left out; tools and the like may be.
        lost = [word for word in lacking if word in (ASKS, ANSWERS, ASKS_AGAIN, ANSWERS_AGAIN)]
        if lost:
            return Support(trial.title, f"no: it leaves out {lost}", trial.judged)
        sent = [message["content"] for message in trial.messages]
        twice = [word for word in dict.fromkeys(trial.holds) if text.count(word) > sent.count(word)]
        if more := [word for word in twice if word in sent]:
            return Support(trial.title, f"no: it repeats {more}", trial.judged)
        return Support(trial.title, f"{IGNORES}: no {lacking}" if lacking else "yes")

    return _rendered(tokenizer, trial.title, trial.messages, trial.options, read, trial.judged)


def _thinking(tokenizer: Any) -> Support:
    """What the switches do that the template reads, each set to both its values."""
    written = str(tokenizer.chat_template)
    names = [name for name in SWITCHES if re.search(rf"\b{name}\b", written)]
    tried = [_switched(tokenizer, name) for name in names or [next(iter(SWITCHES))]]
    failing = [each for each in tried if each.fails]
    working = [each for each in tried if each.says == "yes"]
    return (failing or working or tried)[0]


def _switched(tokenizer: Any, name: str) -> Support:
    options, (one, other) = {"add_generation_prompt": True}, SWITCHES[name]

    def with_thoughts(on: str) -> Support:
        def without_thoughts(off: str) -> Support:
            return Support(THINKING, IGNORES if on == off else "yes")

        off = {**options, name: other}
        return _rendered(tokenizer, THINKING, [USER], off, without_thoughts)

    return _rendered(tokenizer, THINKING, [USER], {**options, name: one}, with_thoughts)


def _rendered(
    tokenizer: Any,
    title: str,
    messages: list[dict[str, Any]],
    options: dict[str, Any],
    read: Callable[[str], Support],
    judged: bool = True,
) -> Support:
    from jinja2.exceptions import TemplateError  # here: as transformers does

    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:
        # A template's own raise_exception(…), here or in a process of its own; whatever else goes
        # wrong in it (a name that is not defined) is of a subclass.
        refuses = getattr(error, "refused", type(error) is TemplateError)
        first = title == TRIALS[0].title
        says = f"{'refuses it' if refuses else 'no'}: {one_line(str(error))}"
        return Support(title, says, judged and (first or not refuses))
    return read(text)
