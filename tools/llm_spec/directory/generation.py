"""What generation_config.json says: mlx-lm takes the ids that end a text from it, and no more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_spec.directory.errors import BadModel, read_json
from llm_spec.directory.files import Files
from llm_spec.text.untrusted import quoted

NAME = "generation_config.json"
# What a sampler can take, and the option of mlx-lm that sets it.
SETTINGS: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, 100.0, "--temp"),
    "top_p": (0.0, 1.0, "--top-p"),
    "top_k": (0, 10_000_000, "--top-k"),
    "min_p": (0.0, 1.0, "--min-p"),
    "repetition_penalty": (1e-6, 100.0, ""),
}
# What else changes an answer where it is not left at what it is without being set.
OTHERS: dict[str, Any] = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    **dict.fromkeys(("min_length", "min_new_tokens", "presence_penalty", "frequency_penalty"), 0),
    "typical_p": 1.0,
    "penalty_alpha": 0.0,
    **dict.fromkeys(("suppress_tokens", "bad_words_ids", "stop_strings", "sequence_bias")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens")),
}


def check(found: Files, config: Mapping[str, Any]) -> list[str]:
    """Sentences about settings that do not do what they say. Raises `BadModel` where mlx-lm could
    not load the model for them."""
    if NAME not in found.small:
        return []
    try:
        content = json.loads((found.root / NAME).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        where = f"{error.msg} in line {error.lineno}"
        return [f"{NAME} is not JSON: {where}: mlx-lm ignores it; fetch it again or delete it."]
    except (OSError, ValueError, RecursionError):
        content = read_json(found.root / NAME)  # tells what is wrong
    if not isinstance(content, dict):
        raise BadModel(f"{NAME} should hold an object, but holds {quoted(content)}.")
    check_ends(NAME, content)
    return [*_ends(content, config), *_sampling(content)]


def check_ends(file: str, content: Mapping[str, Any]) -> None:
    """Raises `BadModel` where what ends a text is no id."""
    eos = content.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [eos]
    if not all(each is None or (type(each) is int and each >= 0) for each in ids):
        raise BadModel(f"{file}: eos_token_id should be a token's id, but is {quoted(eos)}.")


def ends(path: Path) -> set[int]:
    """The ids that a file names as ends; none where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return _ids(content.get("eos_token_id")) if isinstance(content, dict) else set()


def _ends(content: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    taken, stated = (_ids(each.get("eos_token_id")) for each in (content, config))
    if not taken or stated <= taken:
        return []
    lost = ", ".join(map(str, sorted(stated - taken)))
    return [
        f"{NAME} ends texts at {sorted(taken)}, and config.json also at {lost}: mlx-lm takes "
        f"{NAME}'s alone, and the tokenizer's own."
    ]


def _ids(eos: Any) -> set[int]:
    return {each for each in (eos if isinstance(eos, list) else [eos]) if each is not None}


def _sampling(content: Mapping[str, Any]) -> list[str]:
    given = {key: content[key] for key in SETTINGS if content.get(key) is not None}
    if given.get("top_k") == -1:  # for some servers, what 0 is for others: all tokens
        del given["top_k"]
    for key, value in given.items():
        low, high, _ = SETTINGS[key]
        if type(value) not in (int, float) or not low <= value <= high:
            return [f"{NAME} gives {key} as {quoted(value)}, which no sampler takes."]
    others = [key for key, unset in OTHERS.items() if content.get(key, unset) not in (None, unset)]
    sets = f"{NAME} sets {', '.join(others)}: mlx-lm reads none of it."
    told = [sets] if others else []
    # Temperature 0 is what mlx-lm does without being asked.
    if not given or content.get("do_sample") is False or given.get("temperature") == 0:
        return told
    asked = ", ".join(f"{key} {value:g}" for key, value in given.items())
    options = " ".join(f"{SETTINGS[k][2]} {v:g}" for k, v in given.items() if SETTINGS[k][2])
    ask = f"; ask for it: {options}" if options else ""
    return [f"{NAME} asks for {asked}: mlx-lm reads none of it and answers greedily{ask}.", *told]
