"""A new job file, as ``fanout init`` writes it and ``fanout presets show`` prints it: TOML with comments."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_COMMENT_AT = 34
_WIDTH = 120


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
        """Set a key, with a comment beside it."""
        self.tables.setdefault(table, {})[key] = value
        if comment:
            self.comments[f"{table}.{key}"] = comment

    def text(self) -> str:
        """Return the tables, each behind an empty line."""
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
