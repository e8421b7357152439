"""The text of job files: new ones with comments, overrides by ``--set KEY=VALUE``, and edits of a file in place."""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.files import PRIVATE, whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.job.tables import Location

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Most keys with their values are shorter, so that the comments form a column.
_COMMENT_AT = 34
_WIDTH = 120


def override(tables: dict[str, Any], setting: str) -> Location:
    """Set one key in ``tables``, in place, and return its location.

    The value is read as TOML (``8``, ``true``, ``["a", "b"]``); any other text is a plain string.

    Raises `ConfigError` if ``setting`` is not ``KEY.PATH=VALUE``.
    """
    key, equals, value = setting.partition("=")
    path = _key_parts(key)
    if not equals or not path:
        raise ConfigError(f"--set {key}: write KEY.PATH=VALUE, for instance --set limits.concurrency=8")
    table = tables
    for name in path[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {key}: {name} is not a table, so no key of it can be set")
        table = inner
    table[path[-1]] = parse_value(value)
    return path


def require_not_overridden(settings: Sequence[str], keys: Sequence[str]) -> None:
    """Raise `ConfigError` if ``--set`` overrides one of ``keys``, or a table around it, which ``--write`` sets."""
    for key in keys:
        parts = tuple(key.split("."))
        for setting in settings:
            path = override({}, setting)
            if path == parts[: len(path)]:
                raise ConfigError(f"--write sets {key} in the job file, so it cannot be overridden by --set {setting}")


def require_writable(file: Path) -> None:
    """Raise `ConfigError` if `write_settings` could not write this job file."""
    target = file.resolve()
    if not os.access(target, os.W_OK) or not os.access(target.parent, os.W_OK):  # a new file replaces it
        raise ConfigError(f"{file}: cannot be written, nor replaced in its folder, by this user")


def write_settings(file: Path, settings: Mapping[str, int]) -> None:
    """Set keys such as ``limits.concurrency`` in a job file, atomically. Missing tables are added.

    Comments, order and spaces stay. Raises `ConfigError` if it cannot be done; the file is then unchanged.
    """
    # A symbolic link stays; the file behind it is replaced.
    target = file.resolve()
    try:
        before = target.read_bytes().decode("utf-8")
        after = rewritten(before, settings)
        replace_file(target, after.encode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: cannot be changed: {error}") from None


def rewritten(text: str, settings: Mapping[str, int]) -> str:
    """Return the text of a job file with other values. Raises `ValueError` if more than these would change."""
    import tomlkit  # takes 30 ms to import, and only `fanout tune --write` needs it

    # tomlkit writes line feeds alone, and a file of mixed line ends would show as changed from top to bottom.
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
    _require_same_otherwise(text, changed, settings)
    return changed.replace("\n", newline) if newline == "\r\n" else changed


def _require_same_otherwise(before: str, after: str, settings: Mapping[str, int]) -> None:
    # A file written by hand must not be damaged where the editor mishandles a rare form of TOML.
    wanted = tomllib.loads(before)
    for key, value in settings.items():
        table, _, name = key.partition(".")
        wanted.setdefault(table, {})[name] = value
    if tomllib.loads(after) != wanted:
        raise ValueError("its form is too unusual; set the values by hand")


def replace_file(target: Path, data: bytes) -> None:
    """Replace the content of an existing file at once, durably. Raises `OSError`; the file is then unchanged."""
    with whole_file(target, mode=PRIVATE) as file:
        # Private until now, because a job file may hold credentials; the new one has the mode of the old.
        file.path.chmod(target.stat().st_mode)
        file.append(data)


def _key_parts(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted TOML key, which may be quoted: ``endpoint.headers."X-Model"``; empty if invalid."""
    try:
        value: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        name, value = next(iter(value.items()))
        parts.append(name)
    return tuple(parts) if value == 0 and "\n" not in key else ()


def parse_value(text: str) -> Any:
    """Return ``text`` read as a TOML value; the text itself if it is none."""
    try:
        tables = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break in the text would begin another key, and no key of a job is a date.
    if tables.keys() != {"value"} or isinstance(tables["value"], (datetime, date, time)):
        return text
    return tables["value"]


@dataclass(slots=True, kw_only=True)
class Draft:
    """The tables of a new job, and the comments beside some keys.

    Attributes:
        tables: table -> key -> value.
        comments: ``"table.key"`` -> comment beside that key.
        hints: table -> lines that are comments, at its end.
    """

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    hints: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def set(self, table: str, key: str, value: Any, comment: str = "") -> None:
        self.tables.setdefault(table, {})[key] = value
        if comment:
            self.comments[f"{table}.{key}"] = comment

    def text(self) -> str:
        return "".join("\n" + "\n".join(self._table(name)) + "\n" for name in self.tables)

    def _table(self, name: str) -> Iterator[str]:
        yield f"[{name}]"
        tables = {}
        for key, value in self.tables[name].items():
            line = f"{_key(key)} = {toml(value)}"
            # A long table gets a heading of its own, because an inline table must be one line.
            if isinstance(value, dict) and value and (len(line) > _WIDTH or key == "outputs"):
                tables[key] = value
                continue
            yield from _commented(line, self.comments.get(f"{name}.{key}", ""))
        for hint in self.hints.get(name, ()):
            yield f"# {hint}"
        for key, table in tables.items():
            yield ""
            yield from _sub_table(f"{name}.{_key(key)}", table, self.comments.get(f"{name}.{key}", ""))


def _sub_table(name: str, table: Mapping[str, Any], comment: str) -> Iterator[str]:
    yield from _commented(f"[{name}]", comment)
    for key, value in table.items():
        yield f"{_key(key)} = {toml(value)}"


def _commented(line: str, comment: str) -> Iterator[str]:
    beside = f"{line.ljust(_COMMENT_AT - 1)} # {comment}"
    if comment and len(beside) > _WIDTH:
        yield f"# {comment}"
    yield beside if comment and len(beside) <= _WIDTH else line


def toml(value: Any) -> str:
    """Return a value as TOML writes it on one line. Raises `TypeError` for None, which TOML lacks."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A basic string of TOML has the escapes of JSON, and one control character more.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml(key)
