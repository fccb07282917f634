"""What a chat template takes: system messages, tools, thoughts, and what it fails with.

`support` tries each on mlx-lm's tokenizer and says what became of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        "a system message", {"role": "system", "content": SYSTEM}, USER, holds=(SYSTEM, ASKS)
    ),
    _trial("tools", USER, holds=(ASKS, TOOL), tools=TOOLS),
    _trial(
        "a tool call and its result", USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": TOOL, "tool_call_id": CALL["id"], "content": RESULT},
        holds=(ASKS, TOOL, PLACE, RESULT), tools=TOOLS,
    ),
    # mlx-lm joins the parts of a text before a template sees them.
    _trial(
        "content in typed parts", {"role": "user", "content": [{"type": "text", "text": ASKS}]},
        holds=(ASKS,), judged=False,
    ),
)  # fmt: skip
THINKING = "thoughts on and off"


@dataclass(frozen=True)
class Support:
    """What became of a trial. `fails` where the template did not, as it may, refuse by itself."""

    title: str
    says: str
    fails: bool = False


def support(tokenizer: Any) -> list[Support]:
    """Try everything on a tokenizer with a chat template."""
    return [*(_tried(tokenizer, trial) for trial in TRIALS), _thinking(tokenizer)]


def _tried(tokenizer: Any, trial: Trial) -> Support:
    def read(text: str) -> Support:
        lacking = [word for word in trial.holds if word not in text]
        if "{'type'" in text or '{"type": "text"' in text:
            return Support(trial.title, "no: it writes the list as it is")
        # A message of a user is never left out; tools and the like may be.
        lost = [word for word in lacking if word in (ASKS, ANSWERS, ASKS_AGAIN, ANSWERS_AGAIN)]
        if lost:
            return Support(trial.title, f"no: it leaves out {lost}", trial.judged)
        return Support(trial.title, f"ignores it: no {lacking}" if lacking else "yes")

    return _rendered(tokenizer, trial.title, trial.messages, trial.options, read, trial.judged)


def _thinking(tokenizer: Any) -> Support:
    options = {"add_generation_prompt": True}

    def with_thoughts(on: str) -> Support:
        def without_thoughts(off: str) -> Support:
            return Support(THINKING, "ignores it" if on == off else "yes")

        off = {**options, "enable_thinking": False}
        return _rendered(tokenizer, THINKING, [USER], off, without_thoughts)

    on = {**options, "enable_thinking": True}
    return _rendered(tokenizer, THINKING, [USER], on, with_thoughts)


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
