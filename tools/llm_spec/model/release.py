"""Which releases of mlx and mlx-lm are installed, and what they lack that newer ones have."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.version import Version

NEWEST = {"mlx": Version("0.32.4"), "mlx-lm": Version("0.32.2")}
"""The releases that constraints.txt pins: laws and known faults are written for these."""
PACKAGE_OF = {"mlx": "mlx", "mlx_lm": "mlx-lm"}
"""The distribution of each top-level module."""
BEFORE_0_32 = ["*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]
"""What releases fetch that do not name it."""
OF_THE_LIBRARY = ("mlx_lm.models.cache", "mlx_lm.tokenizer_utils", "mlx_lm.generate")
"""Modules whose classes the laws use; the classes of an architecture are what they judge."""
UNKNOWN_KEYWORD = re.compile(
    r"(?P<names>[\w.]+)\(\) got an unexpected keyword argument '(?P<name>\w+)'"
)
CANNOT_IMPORT = re.compile(r"cannot import name '(?P<name>\w+)' from '(?P<module>[\w.]+)'")


def installed(package: str) -> Version:
    """The installed release of "mlx" or "mlx-lm".

    Raises:
        PackageNotFoundError: it is not installed as a distribution.
    """
    return Version(metadata.version(package))


def is_newer(package: str) -> bool:
    """Whether the installed release is newer than the newest that is known."""
    return installed(package) > NEWEST[package]


def part(module: str, name: str) -> Any:
    """What a module of the library calls `name`; None where this release has no such module or
    name."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None


def fetched_patterns() -> list[str]:
    """The files of a hub repository that mlx-lm fetches, as patterns, without code."""
    patterns = part("mlx_lm.utils", "DEFAULT_ALLOW_PATTERNS") or BEFORE_0_32
    return [pattern for pattern in patterns if not pattern.endswith(".py")]


def taken(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of `options` that this release's `function` has a parameter for."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}


def has_chat_template(tokenizer: Any) -> bool:
    """Whether mlx-lm's tokenizer has a chat template; before 0.30.3 it does not tell."""
    told = getattr(tokenizer, "has_chat_template", None)
    return tokenizer.chat_template is not None if told is None else bool(told)


def lacking(error: BaseException) -> str:
    """`mlx-lm 0.30.7 has no mlx_lm.models.cache.TokenBuffer`, where that is why `error` was raised;
    else "".

    A name counts as lacking where code outside of the library asked a module for that name, or an
    object for an attribute that no class of its module has (if another class has it, that it is
    missing here is a fault of the library), or gave a function a keyword that it does not take.
    In the releases of `NEWEST` nothing is lacking: there a wrong name is a mistake.
    """
    wanted = _wanted(error)
    package = PACKAGE_OF.get(wanted.partition(".")[0])
    if package is None or installed(package) == NEWEST[package] or _raised_inside(error):
        return ""
    return f"{package} {installed(package)} has no {wanted}"


def _wanted(error: BaseException) -> str:
    """The dotted name that was asked of a module and is not there; "" where none was."""
    if isinstance(error, AttributeError):
        return _wanted_of(error.obj, error.name or "")
    if isinstance(error, ModuleNotFoundError):
        return error.name or ""
    if isinstance(error, ImportError) and (found := CANNOT_IMPORT.match(str(error))):
        return f"{found['module']}.{found['name']}"
    if isinstance(error, TypeError) and (found := UNKNOWN_KEYWORD.match(str(error))):
        return _parameter_of(_called(error, found["names"]), found["name"])
    return ""


def _called(error: BaseException, names: str) -> object:
    """What the frame that raised knows by the names `function` or `Class.method`, or what the
    library calls so; else None."""
    *_, frame = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    first, *rest = names.split(".")
    modules = [it for name, it in sys.modules.items() if name.partition(".")[0] in PACKAGE_OF]
    scopes = [frame.f_locals, frame.f_globals, *map(vars, modules)]
    known = next((scope[first] for scope in scopes if first in scope), None)
    for name in rest:
        known = getattr(known, name, None)
    return known


def _parameter_of(function: object, name: str) -> str:
    module, known_as = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    return f"{module}.{known_as}({name}=…)"


def _wanted_of(owner: object, name: str) -> str:
    if isinstance(owner, ModuleType):
        return f"{owner.__name__}.{name}"
    for cls in type(owner).__mro__:
        if cls.__module__ in OF_THE_LIBRARY:
            beside = vars(sys.modules[cls.__module__]).values()
            return (
                ""
                if any(hasattr(it, name) for it in beside)
                else f"{cls.__module__}.{cls.__name__}.{name}"
            )
    return ""


def _raised_inside(error: BaseException) -> bool:
    """Whether the library's own code asked."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and not PACKAGE_OF.keys().isdisjoint(Path(frames[-1].filename).parts)
