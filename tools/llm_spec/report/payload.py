"""What the page carries packed, for its scripts and its folds, so that the file stays small."""

import base64
import gzip
import json
from typing import Any

FILE_LIMIT = 4_000_000
"""Bytes of a report: small enough for mail, and read in a second."""


def packed(text: str) -> str:
    """`text` as gzip in base 64, in which no markup can occur. The same text, the same result."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def compact(value: Any) -> str:
    """JSON without spaces; lone surrogates are written as escapes."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def cost(exhibit: Any, is_packed: bool) -> int:
    """About how many bytes an exhibit adds to the file."""
    text = compact(exhibit)
    if not is_packed:
        return 3 * len(text)  # markup around each of its values
    return len(gzip.compress(text.encode("ascii"), 1)) * 4 // 3
