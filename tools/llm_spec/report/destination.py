"""Where results are written to: the data as JSON, or the page drawn from them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_spec.ledger.results import to_json, write_atomically


class BadDestination(Exception):
    """A report cannot be written where it was asked for; the message is one sentence."""


def check_destination(path: Path) -> None:
    """Find out before an hour of work, not after it.

    Raises:
        BadDestination: the ending is unknown, or the directory is missing or read-only.
    """
    if path.suffix not in (".json", ".html"):
        raise BadDestination(f"--report {path}: write .json for the data or .html for the page.")
    if not path.parent.is_dir():
        raise BadDestination(f"--report {path}: there is no directory {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise BadDestination(f"--report {path}: {path.parent} is read-only.")


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write `document` as JSON, or the page drawn from it. Raises OSError as `write_atomically`."""
    if path.suffix == ".html":
        from llm_spec.report.page import (
            render_report,  # here: only a page needs its template engine
        )

        write_atomically(path, render_report(document))
    else:
        write_atomically(path, to_json(document))
