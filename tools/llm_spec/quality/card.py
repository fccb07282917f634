"""What a model directory says of itself: licence, languages, context."""

import json
from pathlib import Path
from typing import Any

import yaml

FRONT = "---"
LIMITS = ("max_position_embeddings", "model_max_length", "n_positions", "max_seq_len", "n_ctx")


def card(directory: Path) -> dict[str, Any]:
    """`licence` and `languages` of README.md's front matter, `context` in tokens of config.json.

    None for what they do not say; a file that is missing or broken says nothing.
    """
    front, config = _front_matter(directory / "README.md"), _config(directory / "config.json")
    languages = front.get("language")
    named = [languages] if isinstance(languages, str) else languages
    licence = front.get("license_name") or front.get("license")
    return {
        "licence": licence if isinstance(licence, str) else None,
        "languages": [str(each) for each in named] if isinstance(named, list) else None,
        "context": _context(config),
    }


def _front_matter(path: Path) -> dict[str, Any]:
    try:
        head, _, rest = path.read_text(encoding="utf-8").partition("\n")
        found = yaml.safe_load(rest.partition(f"\n{FRONT}")[0]) if head.strip() == FRONT else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _context(config: dict[str, Any]) -> int | None:
    for level in (config, config.get("text_config")):
        for name in LIMITS:
            value = level.get(name) if isinstance(level, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None
