"""Rows from JSON lines: a field of each, several, or the whole value."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import chain
from typing import TYPE_CHECKING, Any

import orjson

from fanout import exact_json
from fanout.errors import InputError
from fanout.io.readers.base import Source
from fanout.io.readers.columns import ids_of
from fanout.io.readers.origins import File, line_blocks, lines_about, not_utf8
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.io.readers.origins import Origin

    Get = Callable[[Any], Any]

_ABSENT = object()


class JsonLinesSource(Source):
    """One JSON value a line; lines of nothing but white space are none.

    ``column`` is a field of the objects, or a JSON pointer (RFC 6901) to a place deeper in them (``/a/b/0``); a list of
    those makes rows that are dicts with these keys; without it a row is the whole value. What a row does not have is
    None in it. ``id`` is a field or a pointer too.

    Raises:
        InputError: an empty list of columns; as it is read, a line that is not JSON, or no object where a field of it
            is wanted, or a field that none of the first rows has.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        if column is not None and not column:
            raise InputError("column is empty: give the name of a field, or leave it out", key="input.column")
        self._origins = origins
        self._column = column if column is None or isinstance(column, str) else tuple(dict.fromkeys(column))
        self._id = id
        self.repeatable = all(origin.repeatable for origin in origins)
        self.files = tuple(origin.path for origin in origins if isinstance(origin, File))

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        row = 0
        for values, name in self._values():
            if row == 0:
                self._require_fields(values, name)
            ids = None
            if self._id is not None:
                ids = ids_of(_pick(values, self._id), self._id, name, row)
            yield Block(self._rows(values), ids)
            row += len(values)

    def rows_about(self) -> int | None:
        """See `Source.rows_about`."""
        return lines_about(self._origins)

    def fingerprint(self) -> dict[str, Any] | None:
        """See `Source.fingerprint`."""
        files = [origin.fingerprint() for origin in self._origins]
        column = list(self._column) if isinstance(self._column, tuple) else self._column
        return None if None in files else {"format": "jsonl", "files": files, "column": column, "id": self._id}

    def _values(self) -> Iterator[tuple[list[Any], str]]:
        fields = self._fields
        for origin in self._origins:
            with origin.opened() as file:
                for number, lines in line_blocks(file):
                    if values := _parsed(lines, number, origin.name, fields):
                        yield values, origin.name

    @property
    def _fields(self) -> dict[str, str]:
        """What is taken out of each value, and the key of the job file that names it."""
        columns = (self._column,) if isinstance(self._column, str) else self._column or ()
        return {**dict.fromkeys(columns, "input.column"), **({} if self._id is None else {self._id: "input.id"})}

    def _rows(self, values: list[Any]) -> list[Any]:
        if self._column is None:
            return values
        if isinstance(self._column, str):
            return _pick(values, self._column)
        picked = [_pick(values, name) for name in self._column]
        return [dict(zip(self._column, row, strict=True)) for row in zip(*picked, strict=True)]

    def _require_fields(self, values: list[Any], name: str) -> None:
        """A row may lack a field; a field that all lack is misspelt."""
        for field, key in self._fields.items():
            get = _getter(field)
            if all(get(value) is _ABSENT for value in values):
                known = list(dict.fromkeys(chain.from_iterable(v for v in values if isinstance(v, dict))))
                found = get_close_matches(field, known, n=1)
                hint = f'did you mean "{found[0]}"? They' if found else "they"
                listed = ", ".join(f'"{other}"' for other in known[:30]) or "no fields"
                told = f'none of the first {len(values)} rows has "{field}"; {hint} have {listed}'
                raise InputError(f"{name}: {told}", key=key)


def _pick(values: list[Any], field: str) -> list[Any]:
    get = _getter(field)
    return [None if found is _ABSENT else found for found in map(get, values)]


def _getter(field: str) -> Get:
    if not field.startswith("/"):
        return lambda value: value.get(field, _ABSENT)
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in field[1:].split("/")]

    def get(value: Any) -> Any:
        for token in tokens:
            value = _step(value, token)
        return value

    return get


def _step(value: Any, token: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(token, _ABSENT)
    if isinstance(value, list) and token.isdecimal() and token.isascii() and int(token) < len(value):
        return value[int(token)]
    return _ABSENT


def _parsed(lines: list[bytes], number: int, name: str, fields: Mapping[str, str]) -> list[Any]:
    plain = next((field for field in fields if not field.startswith("/")), None)
    parse = exact_json.parser_for(b"\n".join(lines))
    values = []
    for i, line in enumerate(lines, number):
        if not line or line.isspace():
            continue
        try:
            value = parse(line)
        except orjson.JSONDecodeError as error:
            raise _unreadable(line, error, i, name) from None
        if plain is not None and type(value) is not dict:
            told = f'no object, so it cannot have "{plain}"'
            raise InputError(f"{name}, line {i}: {told}", key=fields[plain])
        values.append(value)
    return values


def _unreadable(line: bytes, error: orjson.JSONDecodeError, number: int, name: str) -> InputError:
    try:
        line.decode()
    except UnicodeDecodeError:
        return not_utf8(name, number)
    if error.msg == exact_json.TOO_DEEP:
        return InputError(f"{name}, line {number}: {error.msg}", key="input.path")
    told = str(error).partition(": line ")[0]
    return InputError(f"{name}, line {number}: not JSON ({told}, column {error.colno})", key="input.path")
