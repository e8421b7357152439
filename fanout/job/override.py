"""Keys set from the command line: ``--set limits.concurrency=8``."""

from __future__ import annotations

import tomllib
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.job.environment import Location


def override(tables: dict[str, Any], setting: str) -> Location:
    """Set one key in ``tables``, in place, and return its place.

    The value is read as TOML (``8``, ``true``, ``["a", "b"]``); what is not TOML is a plain string.

    Raises `ConfigError` when ``setting`` is not ``KEY.PATH=VALUE``.
    """
    key, equals, value = setting.partition("=")
    path = _path(key)
    if not equals or not path:
        raise ConfigError(f"--set {key}: write KEY.PATH=VALUE, for instance --set limits.concurrency=8")
    table = tables
    for name in path[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {key}: {name} is not a table, so no key of it can be set")
        table = inner
    table[path[-1]] = _value(value)
    return path


def overridden(settings: Sequence[str], key: str) -> str | None:
    """The first of some settings, as `override` takes them, that sets ``key``, or a table that it is in."""
    wanted = tuple(key.split("."))
    for setting in settings:
        path = override({}, setting)
        if path == wanted[: len(path)]:
            return setting
    return None


def _path(key: str) -> tuple[str, ...]:
    """The names of a dotted TOML key, which may be quoted: ``endpoint.headers."X-Model"``."""
    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(found, dict) and len(found) == 1:
        name, found = next(iter(found.items()))
        path.append(name)
    return tuple(path) if found == 0 and "\n" not in key else ()


def _value(text: str) -> Any:
    try:
        tables = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break in the text would begin another key, and no key of a job is a date.
    if tables.keys() != {"value"} or isinstance(tables["value"], (datetime, date, time)):
        return text
    return tables["value"]
