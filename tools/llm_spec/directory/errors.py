"""What is wrong with a model directory, in a sentence."""

import json
from pathlib import Path
from typing import Any

from llm_spec.text.untrusted import one_line


class BadModel(Exception):
    """Nothing about the model can be checked. The text is one sentence: file, cause, what to do."""


def reason(text: str, without: Path | None = None) -> str:
    """The text of an exception in one line, short and plain; `without` a path of our own."""
    return one_line(
        text.replace(f"{without}/", "").replace(str(without), "it") if without else text
    )


def read_json(path: Path) -> Any:
    """Parse a file of JSON. Raises `BadModel`, which names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadModel(f"{path.name} is not JSON: {error.msg} in line {error.lineno}.") from error
    except UnicodeDecodeError as error:
        raise BadModel(f"{path.name} is not text in UTF-8.") from error
    except RecursionError as error:
        raise BadModel(f"{path.name} is nested too deeply to be read.") from error
    except (OSError, ValueError) as error:
        raise BadModel(f"{path.name} cannot be read: {reason(str(error))}.") from error
