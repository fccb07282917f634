"""A model by its name, opened to be looked at: the embedded one, a directory, a hub repository."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm import utils as loading
from platformdirs import user_cache_path

from llm_spec.directory import BadModel, inspect_directory
from llm_spec.directory.chat_template import BoundedTemplate
from llm_spec.model import release
from llm_spec.model.float32 import float32_fits, unpacked
from llm_spec.text.untrusted import one_line, quoted

EMBEDDED = "smollm2-135m"
OWN = (EMBEDDED, "gemma-3-270m")
"""Models that the specs fetch, check by their hash and convert; they lie in the user's cache."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class CannotLook(Exception):
    """There is nothing to show. The text is one sentence: the cause and what to do."""


@dataclass(frozen=True)
class Opened:
    """A model that can be computed with, and the tokenizer that belongs to it."""

    name: str
    model: nn.Module
    tokenizer: Any
    notes: list[str]
    """Sentences about oddities of the model, shown beside the rest."""


@contextmanager
def opened(name: str) -> Iterator[Opened]:
    """The model called `name`, for as long as it is looked at.

    A directory, also that of a hub repository, is inspected first, and its chat template is filled
    in by a process that can be ended. On a CPU the weights are unpacked to float32 where they fit.

    Raises:
        CannotLook: no such model, it cannot be fetched, or it cannot be trusted.
    """
    if name in OWN:
        path = user_cache_path("llm-spec", appauthor=False) / name
        if not (path / "config.json").is_file():
            raise CannotLook(
                f"{name} is not in {path.parent} yet: `make verify` in a checkout fetches it once."
            )
        yield _load(name, path, [])
        return
    source = _source(name)
    with tempfile.TemporaryDirectory(prefix="llm-spec-", ignore_cleanup_errors=True) as view:
        try:
            found = inspect_directory(source, Path(view), unpacked=mx.default_device() == mx.cpu)
        except BadModel as error:
            raise CannotLook(f"{_shown(name)} cannot be looked at: {error}") from error
        for part in ("tokenizer", "vocabulary"):
            if part in found.problems:
                raise CannotLook(f"{_shown(name)} cannot read a text: {found.problems[part]}")
        loaded = _load(name, found.path, [*found.problems.values(), *found.notes])
        template = BoundedTemplate(found.path)
        if release.has_chat_template(loaded.tokenizer):
            loaded.tokenizer._chat_template = template
        yield loaded


def _source(name: str) -> Path:
    if not name.strip():  # as a variable of a shell that is not set
        raise CannotLook("--model is given no name: write a directory, or a name after it.")
    path = Path(name).expanduser()
    if os.path.isdir(path):
        return path
    if os.path.isfile(path):
        raise CannotLook(f"{_shown(name)} is a file: name the model's directory.")
    if not REPOSITORY.fullmatch(name):
        known = ", ".join(OWN)
        raise CannotLook(
            f"There is no model {_shown(name)}: name {known}, a model directory, or a repository "
            "of the hub as owner/name."
        )
    return _fetched(name)


def _fetched(name: str) -> Path:
    """The directory of a hub repository: from the hub's cache, else from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = release.fetched_patterns()
    try:
        try:
            return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(name, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        raise CannotLook(
            f"The hub has no {name}, or keeps it private: correct the name, or log in with "
            "`hf auth login`."
        ) from error
    except Exception as error:
        # Whatever the hub's client meets: no network, no room, an endpoint that is out of order.
        cause = one_line(str(error.__cause__ or error)) or type(error).__name__
        raise CannotLook(
            f"{name} is not on this machine and could not be fetched ({cause}): connect and run "
            f"again, or name a model directory."
        ) from error


def _load(name: str, path: Path, notes: list[str]) -> Opened:
    try:
        model, config = loading.load_model(path, lazy=True)
        # MLX's CPU backend multiplies packed matrices and half precision many times slower.
        if mx.default_device() == mx.cpu and float32_fits(model):
            model = unpacked(model)
        # The weights are computed while the tokenizer is read.
        mx.async_eval(model.parameters())  # type: ignore[no-untyped-call]
        tokenizer = loading.load_tokenizer(
            path, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id")
        )
        mx.eval(model.parameters())
    except Exception as error:
        # mlx-lm, transformers and MLX each raise what they like over a damaged file.
        raise CannotLook(
            f"{_shown(name)} cannot be loaded from {path} ({one_line(str(error))}): if its files "
            "are damaged, delete that directory and fetch it again."
        ) from error
    return Opened(Path(name).name or name, model, tokenizer, notes)


def _shown(name: str) -> str:
    return quoted(name)
