"""Which files a model directory has, whether they may be opened, and a view without code."""

import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from llm_spec.directory.errors import BadModel
from llm_spec.numerics.units import show_bytes
from llm_spec.text.untrusted import quoted

SMALL = ("*.json", "*.jinja", "*.txt", "*.jsonl", "tokenizer.model", "*.tiktoken", "tiktoken.model")
WEIGHTS = "model*.safetensors"
# What a clone has in a large file's place until Git LFS fetches it, and a failed download.
POINTER, PAGE = (
    b"version https://git-lfs.github.com/spec/",
    re.compile(rb"(?i)\s*<(!doctype )?html"),
)
# Larger than any tokenizer that is published; the sum keeps the disk from being filled.
LARGEST, LARGEST_SUM, MOST_FILES = 256_000_000, 1_000_000_000, 10_000


@dataclass(frozen=True)
class Files:
    """The files of one model directory, by name: those to be parsed, and the weights."""

    root: Path
    small: dict[str, os.stat_result]
    weights: dict[str, os.stat_result]
    others: tuple[str, ...]
    """Names of all else, code and pickles among it: never opened."""

    def seen(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of each file in use."""
        every = {**self.small, **self.weights}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in every.items()}


def find(source: Path) -> Files:
    """List `source` and check that what will be opened is a plain file inside it.

    Raises `BadModel` where it is no model directory, or where a file is a device, a pipe, a broken
    link, a link out of the directory, a pointer of Git LFS or too large to be what its name says.
    """
    root, names = listed(source)
    if "config.json" not in names:
        if adapter := adapter_of(names):
            raise BadModel(says_adapter(adapter))
        hint = _hint(root, names)
        raise BadModel(f"it holds no config.json, so it is no model directory.{hint}")
    small = {name: small_file(root, name) for name in names if _is_small(name)}
    weights = {name: opened(root, name) for name in names if fnmatch(name, WEIGHTS)}
    total = sum(status.st_size for status in small.values())
    if total > LARGEST_SUM:
        raise BadModel(
            f"it holds {show_bytes(total)} besides its weights: remove what is not the model's."
        )
    for name in (*small, *weights):
        if said := _says_stand_in(root / name):
            raise BadModel(f"{quoted(name)} is {said}.")
    others = tuple(name for name in names if name not in small and name not in weights)
    return Files(root, small, weights, others)


def _says_stand_in(path: Path) -> str | None:
    """What a file is instead of itself, and what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return None  # told where it is read
    if start.startswith(POINTER):
        return (
            "a pointer of Git LFS and not the file itself: run `git lfs pull` where it was cloned, "
            "or fetch it again"
        )
    if path.suffix in (".json", ".safetensors") and PAGE.match(start):
        return (
            "a web page and not the file itself: fetch it again, with a login where the model asks "
            "for one"
        )
    return None


def listed(source: Path) -> tuple[Path, list[str]]:
    """The directory itself and the names in it. Raises `BadModel` where there is none."""
    try:
        root = source.resolve(strict=True)
        if not root.is_dir():
            raise BadModel("it is a file; give the directory that holds it.")
        names = sorted(os.listdir(root))
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        why = getattr(error, "strerror", None) or "a link that leads in a circle"
        raise BadModel(f"it cannot be opened as a directory: {why}.") from error
    if len(names) > MOST_FILES:
        raise BadModel(f"it holds {len(names):,} files, which no model directory does.")
    return root, names


def view(found: Files, into: Path) -> None:
    """Copy the small files to `into` and link the weights there.

    Raises `BadModel` where a file has vanished meanwhile; OSError where `into` is full.
    """
    for name in found.small:
        try:
            source = (found.root / name).open("rb")
        except OSError as error:
            raise BadModel(
                f"{quoted(name)} vanished while it was being read: run again."
            ) from error
        with source, (into / name).open("wb") as target:
            shutil.copyfileobj(source, target)
    for name in found.weights:
        (into / name).symlink_to(found.root / name)


def adapter_of(names: Iterable[str]) -> str | None:
    """The file of an adapter (LoRA, DoRA) among the files of a directory, if there is one."""
    kinds = ("adapter_config.json", "*adapters.safetensors", "adapter*.safetensors", "adapter*.bin")
    return next((name for name in names if any(fnmatch(name, kind) for kind in kinds)), None)


def says_adapter(adapter: str) -> str:
    """What to do with an adapter instead of checking it."""
    return (
        f"it holds an adapter ({quoted(adapter)}) and no model: fuse it first "
        "(mlx_lm.fuse --model BASE --adapter-path ADAPTER) and check what that saves."
    )


def _hint(root: Path, names: list[str]) -> str:
    if inner := next((name for name in names if (root / name / "config.json").is_file()), None):
        return f" Its folder {quoted(inner)} holds one: give that."
    if any(name.endswith(".gguf") for name in names):
        return " Convert its GGUF file to MLX first."
    return ""


def _is_small(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in SMALL)


def small_file(root: Path, name: str) -> os.stat_result:
    """The status of a file that will be parsed whole. Raises `BadModel`, also where it is large."""
    status = opened(root, name)
    if status.st_size > LARGEST:
        size = show_bytes(status.st_size)
        raise BadModel(f"{name} has {size}, but should have less than {show_bytes(LARGEST)}.")
    return status


def opened(root: Path, name: str) -> os.stat_result:
    """The status of a file that may be opened: a plain one, inside `root`. Raises `BadModel`."""
    path = root / name
    try:
        target = path.resolve(strict=True)
        status = target.stat()
    except PermissionError as error:
        raise BadModel(f"{quoted(name)} cannot be reached: {error.strerror}.") from error
    except (OSError, RuntimeError) as error:
        raise BadModel(
            f"{quoted(name)} is a link that leads nowhere: fetch the model again."
        ) from error
    if not any(target.is_relative_to(home) for home in _homes(root)):
        raise BadModel(
            f"{quoted(name)} is a link out of the directory, to {quoted(str(target))}: copy the "
            "file there."
        )
    if not stat.S_ISREG(status.st_mode):
        raise BadModel(f"{quoted(name)} is a directory, a pipe or a device, but should be a file.")
    if not os.access(target, os.R_OK):
        raise BadModel(f"{quoted(name)} must not be read by this user: allow it.")
    return status


def _homes(root: Path) -> list[Path]:
    """Where files of `root` may lie: there, and for a snapshot of a hub's cache in its blobs."""
    if root.parent.name == "snapshots":
        return [root, root.parent.parent / "blobs"]
    return [root]
