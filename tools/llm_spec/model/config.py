"""What a configuration says of the language model that it describes."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

Config = TypeVar("Config", bound=Mapping[str, Any])


def text_config(config: Config) -> Config:
    """The settings of the language model: its own `text_config`, or `config` where it has none.

    Models that read pictures too keep them one level down. What stands there and is no object is
    not taken for settings.
    """
    inner = config.get("text_config")
    return cast(Config, inner) if isinstance(inner, Mapping) else config


class BadConfig(ValueError):
    """No model can be declared from this configuration. The text is one sentence."""

    @classmethod
    def after(cls, what: str, error: Exception) -> "BadConfig":
        """`what` went wrong, a sentence without its full stop, with the kind of error."""
        said = f"{type(error).__name__}: {error}".rstrip(".")
        return cls(f"{what} ({said}).")
