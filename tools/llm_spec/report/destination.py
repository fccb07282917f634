"""Where results are written to: the data as JSON, or the page drawn from them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_spec.ledger.results import to_json, write_atomically


class BadDestination(Exception):
    """A report cannot be written where it was asked for; the message is one sentence."""


def check_destination(
    path: Path, option: str = "--report", endings: tuple[str, ...] = (".json", ".html")
) -> None:
    """Find out before an hour of work, not after it. `option` is what asked for `path`.

    Raises:
        BadDestination: the ending is unknown, the directory is missing or read-only, or `path` is
            a directory itself or too long.
    """
    if path.suffix not in endings:
        what = {
            ".json": ".json for the data",
            ".html": ".html for the page",
            ".md": ".md for the table",
        }
        wanted = " or ".join(what[ending] for ending in endings)
        raise BadDestination(f"{option} {path}: write {wanted}.")
    try:
        path.exists()
    except OSError as error:  # its name is too long
        raise BadDestination(f"{option} {path}: {error.strerror}.") from None
    if not path.parent.is_dir():
        raise BadDestination(f"{option} {path}: there is no directory {path.parent}.")
    if path.is_dir():
        raise BadDestination(f"{option} {path}: that is a directory.")
    if not os.access(path.parent, os.W_OK):
        raise BadDestination(f"{option} {path}: {path.parent} is read-only.")


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write `document` as JSON, or the page drawn from it. Raises OSError as `write_atomically`."""
    if path.suffix == ".html":
        from llm_spec.report.page import (
            render_report,  # here: only a page needs its template engine
        )

        write_atomically(path, render_report(document))
    else:
        write_atomically(path, to_json(document))
