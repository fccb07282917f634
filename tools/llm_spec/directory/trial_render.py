"""The process in which chat templates are filled in. Run by `chat_template`, never imported.

Takes conversations, and answers each with its text or with what is wrong.
"""

import json
import sys
from pathlib import Path
from typing import Any

from llm_spec.directory.errors import reason
from llm_spec.processes.pipes import channel, tell

LONGEST = 20_000_000  # characters of a text, far above what a conversation of a check comes to


def main(view: Path) -> None:
    """Answer each line of standard input; end with it."""
    out = channel()
    from mlx_lm.utils import load_tokenizer  # here: what it prints is no message

    tokenizer = load_tokenizer(view, {"trust_remote_code": False})
    tell(out, {"ready": True})
    for line in sys.stdin:
        tell(out, render(tokenizer, view, **json.loads(line)))


def render(
    tokenizer: Any, view: Path, messages: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """{"text"}, or {"problem", "refused"}: refused, where the template itself says that it will
    not have such a conversation."""
    from jinja2.exceptions import TemplateError  # here: as transformers does

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:
        why = f"{type(error).__name__}: {reason(str(error), without=view)}"
        # What a template's raise_exception(…) raises; undefined names and the like are subclasses.
        return {"problem": why, "refused": type(error) is TemplateError}
    if not isinstance(text, str):
        return {"problem": f"it gives {type(text).__name__} and no text", "refused": False}
    if len(text) > LONGEST:
        return {"problem": f"it gives {len(text):,} characters", "refused": False}
    return {"text": text}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
