"""Which of several chat templates of a directory is taken."""

import json

from llm_spec.directory.files import Files

ALONE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"


def check(found: Files) -> list[str]:
    """A sentence where two files hold two chat templates, of which transformers takes one."""
    if not {ALONE, SETTINGS} <= found.small.keys():
        return []
    try:
        alone = (found.root / ALONE).read_text(encoding="utf-8")
        settings = json.loads((found.root / SETTINGS).read_text(encoding="utf-8"))
        beside = settings.get("chat_template")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []  # loading the tokenizer tells what is wrong
    if not isinstance(beside, str) or beside.strip() == alone.strip():
        return []
    return [
        f"{ALONE} is another chat template than {SETTINGS}'s: transformers takes {ALONE}; delete "
        "the one that is not the model's."
    ]
