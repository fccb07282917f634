"""Say whether a model directory can be checked at all, before anything of it is trusted.

A directory from a hub may claim anything: sizes that fill the memory, files that lie about their
length, templates that never end, code that wants to be run. Here its claims are bounded first, and
what only running can tell is tried in a process that can be ended.

    directory = inspect_directory(path, into=view)
    mlx_lm.load(str(directory.path))
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_spec.directory import config as config_file
from llm_spec.directory import files, generation, template_files, weights
from llm_spec.directory.errors import BadModel
from llm_spec.directory.probe import TEXT_STAGES, run_probe
from llm_spec.directory.weights import check_room

__all__ = [
    "BadModel", "ModelDirectory", "changed_since", "check_room", "inspect_config",
    "inspect_directory",
]  # fmt: skip

TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class ModelDirectory:
    """A directory whose model can be loaded.

    `path` is a view of `source`: copies of its small files and links to its weights, without any
    code, so that nothing can be imported from it and nothing that is parsed changes under the
    reader. `problems` are sentences about what the model can be checked without: its
    "packing", "head", "tokenizer", "vocabulary" and "chat template" (which the view leaves out).
    """

    source: Path
    path: Path
    seen: dict[str, tuple[int, int]] = field(repr=False)
    """Size in bytes and modification time in ns of each file of `source` that was used."""
    problems: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences about what is no fault of the model, but not what its files say either."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for another process; `from_dict` takes them."""
        return {**asdict(self), "source": str(self.source), "path": str(self.path)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelDirectory":
        seen = {name: (size, mtime) for name, (size, mtime) in values["seen"].items()}
        paths = Path(values["source"]), Path(values["path"])
        return cls(*paths, seen, dict(values["problems"]), list(values["notes"]))


def inspect_directory(
    source: Path,
    into: Path,
    *,
    free: int | None = None,
    unpacked: bool = True,
    tokenizer: bool = True,
    needs_model: bool = True,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ModelDirectory:
    """Check the model directory `source` and make a view of it in the empty directory `into`.

    Args:
        free: bytes of memory that the model may take; what is available now if None.
        unpacked: whether it will be computed with in float32, as on a CPU.
        tokenizer: whether tokenizer and chat template are tried.
        needs_model: whether it is refused where mlx-lm cannot load it. Else that is a problem with
            the "model", and only its files can be looked at.
        on_stage: told, in a few words, what is being looked at.

    Nothing in `source` is executed, and the time is bounded. Raises `BadModel`, one sentence that
    names file and cause, when no claim about this model could be checked.
    """
    on_stage("files")
    found = files.find(source)
    config = config_file.read(found, to_load=needs_model)
    notes = [*generation.check(found, config), *template_files.check(found)]
    held = weights.check(found, config, free=free, unpacked=unpacked)
    files.view(found, into)
    try:
        problems = run_probe(
            into, on_stage, () if tokenizer else TEXT_STAGES, needs_model=needs_model
        )
    except BadModel as problem:
        # What is odd about the files may be why.
        raise BadModel(" ".join([*held.notes, str(problem)])) from problem
    if "chat template" in problems:
        _leave_out_the_template(into)
    return ModelDirectory(found.root, into, found.seen(), problems, [*held.notes, *notes])


def inspect_config(source: Path) -> dict[str, Any]:
    """What config.json of a directory says, with or without weights beside it. Raises
    `BadModel`."""
    return config_file.read(files.find(source))


def changed_since(directory: ModelDirectory) -> str | None:
    """The name of a file that changed or vanished since it was inspected, or None."""
    for name, (size, mtime) in directory.seen.items():
        try:
            status = (directory.source / name).stat()
        except OSError:
            return name
        if (status.st_size, status.st_mtime_ns) != (size, mtime):
            return name
    return None


def _leave_out_the_template(view: Path) -> None:
    for name in TEMPLATES:
        (view / name).unlink(missing_ok=True)
    shutil.rmtree(view / "additional_chat_templates", ignore_errors=True)
    path = view / "tokenizer_config.json"
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("chat_template", None)
        path.write_text(json.dumps(settings), encoding="utf-8")
