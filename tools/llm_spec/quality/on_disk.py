"""Assistants that are on this disk already: in the hub's cache, in this suite's own, or named."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from platformdirs import user_cache_path

OWN = "llm-spec"  # where the suite keeps what it converted


@dataclass(frozen=True)
class OnDisk:
    """A model by the name that `--model` takes, and its directory or GGUF file."""

    name: str
    path: Path


def assistants() -> list[OnDisk]:
    """Every model with weights for mlx-lm and a chat template, by name; nothing is fetched."""
    return [each for each in _cached() if is_assistant(each.path)]


def _cached() -> list[OnDisk]:
    """What this suite and the hub's client keep, by name."""
    own = user_cache_path(OWN, appauthor=False)
    found = [OnDisk(path.name, path) for path in sorted(own.glob("*"))]
    try:
        repos = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except (CacheNotFound, OSError):
        repos = []
    for repo in repos:
        newest = max(repo.revisions, key=lambda each: each.last_modified, default=None)
        if repo.repo_type == "model" and newest is not None:
            found.append(OnDisk(repo.repo_id, newest.snapshot_path))
    return found


def is_assistant(path: Path) -> bool:
    """Whether a directory holds a model in mlx-lm's format that can be asked as an assistant."""
    if not (path / "config.json").is_file() or not any(path.glob("model*.safetensors")):
        return False
    if any(path.glob("chat_template*")):
        return True
    try:
        return '"chat_template"' in (path / "tokenizer_config.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def named(names: Sequence[str]) -> list[OnDisk]:
    """The models of these names: of `assistants`, or else a directory or file of that path.

    Raises ValueError for one that is not on this disk, or no assistant, with those that are.
    """
    cached = {each.name: each for each in _cached()}
    known = {name: each for name, each in cached.items() if is_assistant(each.path)}
    found = []
    for name in names:
        path = Path(name).expanduser()
        if not name.strip():  # as a variable of a shell that is not set
            raise ValueError("--measure is given no name: write a directory, or a name after it.")
        if name in known:
            found.append(known[name])
        elif os.path.exists(path):
            found.append(OnDisk(name, path))
        else:
            lack = "cannot be asked: it lacks a chat template or weights for mlx-lm"
            why = lack if name in cached else "is not on this disk"
            there = ", ".join(known) or "none"
            raise ValueError(f"{name} {why}; assistants on this disk: {there}.")
    return found


def fingerprint(paths: Iterable[Path], *words: str) -> str:
    """Twelve hexadecimal digits of these files' names, sizes and times, and of some words.

    A folder stands for all files in it but those that Python compiled.
    """
    digest = hashlib.sha256("\n".join(words).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                told = file.stat()
                digest.update(f"{file}\0{told.st_size}\0{told.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]
