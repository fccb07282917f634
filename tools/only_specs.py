"""An early plugin of pytest, named by pyproject.toml: no conftest.py but the suite's is loaded.

pytest loads the conftest.py of every path that it is given, and learns only from that of this suite
what options there are. Until then the X of `specs/ --model X` is a path like any other, and code
that lies in X as conftest.py would run.
"""

from pathlib import Path
from typing import Any


def pytest_load_initial_conftests(early_config: Any) -> None:
    """Of the paths whose conftest.py is loaded, leave those within the specs alone."""
    specs = (early_config.rootpath / "specs").resolve()
    given = early_config.known_args_namespace
    given.file_or_dir = [each for each in given.file_or_dir if _path(each).is_relative_to(specs)]


def _path(argument: str) -> Path:
    return Path(argument.partition("::")[0]).resolve()
