"""Write single values into a job file, and leave all else in it as it is: comments, order, spaces."""

from __future__ import annotations

import os
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.files import Publication, write_at

if TYPE_CHECKING:
    from collections.abc import Mapping


def require_writable(file: Path) -> None:
    """Raise `ConfigError` if `write_settings` could not write this job file."""
    target = file.resolve()
    if not os.access(target, os.W_OK) or not os.access(target.parent, os.W_OK):  # a new file takes its place
        raise ConfigError(f"{file}: cannot be written, nor replaced in its folder, by this user")


def write_settings(file: Path, settings: Mapping[str, int]) -> None:
    """Set keys such as ``limits.concurrency`` in a job file, in one step; tables that are missing are made.

    Raises `ConfigError` where it cannot be done; the file is then as it was.
    """
    target = file.resolve()
    try:
        before = target.read_bytes().decode("utf-8")
        after = rewritten(before, settings)
        _replace(target, after.encode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: cannot be changed: {error}") from None


def rewritten(text: str, settings: Mapping[str, int]) -> str:
    """The text of a job file with other values. Raises `ValueError` where nothing but them can be changed."""
    import tomlkit  # 30 ms, for the few who write

    newline = "\r\n" if text.count("\r\n") == text.count("\n") > 0 else "\n"
    document = tomlkit.parse(text.replace("\r\n", "\n") if newline == "\r\n" else text)
    for key, value in settings.items():
        table, _, name = key.partition(".")
        if table not in document:
            document.add(tomlkit.nl())
            document.add(table, tomlkit.table())
        inner: Any = document[table]
        inner[name] = value
    changed = tomlkit.dumps(document)
    _require_same_beside(text, changed, settings)
    return changed.replace("\n", newline) if newline == "\r\n" else changed


def _require_same_beside(before: str, after: str, settings: Mapping[str, int]) -> None:
    """A file that somebody wrote by hand is not to be spoilt by a rare form that the editing gets wrong."""
    wanted = tomllib.loads(before)
    for key, value in settings.items():
        table, _, name = key.partition(".")
        wanted.setdefault(table, {})[name] = value
    if tomllib.loads(after) != wanted:
        raise ValueError("its form is too unusual; set the values by hand")


def _replace(target: Path, data: bytes) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        try:
            os.fchmod(fd, target.stat().st_mode)
            write_at(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        Publication(((Path(name), target),)).carry_out()
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise
