"""Checks of codec options, so that a wrong one is named before anything is sent."""

from __future__ import annotations

from typing import Any

import orjson

from fanout.codecs._rows import DUMPS, holds_nonfinite
from fanout.errors import ConfigError


def text(name: str, value: object) -> str:
    """``value``, a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be a text, not {value!r}", key=name)
    return value


def text_or_none(name: str, value: object) -> str | None:
    """``value``, a text that is not empty, or None."""
    return None if value is None else text(name, value)


def flag(name: str, value: object) -> bool:
    """``value``, true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {value!r}", key=name)
    return value


def fields(name: str, value: object) -> dict[str, Any]:
    """A copy of ``value``, a table of constants that JSON can express; empty for None."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} must be a table of constant fields, not {value!r}", key=name)
    try:
        orjson.dumps(value, option=DUMPS)
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"{name} cannot be written as JSON: {error}", key=name) from None
    if holds_nonfinite(value):
        raise ConfigError(f"{name} holds NaN or infinity, which JSON cannot express", key=name)
    return dict(value)


def names(name: str, value: object) -> tuple[str, ...]:
    """``value``, a list of different texts; empty for None."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f"{name} must be a list of names, not {value!r}", key=name)
    if len(set(value)) < len(value):
        raise ConfigError(f"{name} has a name twice: {value!r}", key=name)
    return tuple(value)
