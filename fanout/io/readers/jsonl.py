"""Rows from JSON lines: a field of each value, several fields, or the whole value."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import orjson

from fanout import exact_json
from fanout.errors import InputError
from fanout.io.readers.columns import check_ids, suggestion
from fanout.io.readers.lines import LineSource, decode_line, line_blocks
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.io.readers.lines import ByteInput

# None is a value in JSON, so a field that is not there needs another mark.
_ABSENT = object()


class JsonLinesSource(LineSource):
    """One JSON value a line; blank lines are no rows.

    ``column`` is a field of the objects, or a JSON pointer (RFC 6901) to a place deeper in them (``/a/b/0``). A list of
    these makes rows that are dicts with them as keys; without it a row is the whole value. A field that a row does not
    have is None. ``id`` is a field or a pointer too.

    Raises:
        InputError: the list of columns is empty; while reading: a line is not JSON, or is not an object although a
            field of it is wanted, or none of the first rows has a field.
    """

    _format = "jsonl"

    def __init__(
        self,
        inputs: Sequence[ByteInput],
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002 - the name it has for users
    ) -> None:
        if column is not None and not column:
            raise InputError("column is empty: give the name of a field, or leave it out", key="input.column")
        self._column = column if column is None or isinstance(column, str) else list(dict.fromkeys(column))
        self._id = id
        super().__init__(inputs, column=self._column, id=id)

    def blocks(self) -> Iterator[Block]:
        row = 0
        fields = self._fields()
        for one in self._inputs:
            with one.open() as file:
                for first, lines in line_blocks(file):
                    values = _parse(lines, first, one.name, fields)
                    if not values:
                        continue
                    # A pass that starts in the middle still reads from the beginning, so the check is made once.
                    if row == 0:
                        _require_fields(values, one.name, fields)
                    ids = None
                    if self._id is not None:
                        ids = check_ids(_pick(values, self._id), self._id, one.name, row)
                    yield Block(self._rows(values), ids)
                    row += len(values)

    def _fields(self) -> dict[str, str]:
        """Return the fields to read, each with the key of the job file that names it."""
        columns = [self._column] if isinstance(self._column, str) else self._column or []
        return {**dict.fromkeys(columns, "input.column"), **({} if self._id is None else {self._id: "input.id"})}

    def _rows(self, values: list[Any]) -> list[Any]:
        if self._column is None:
            return values
        if isinstance(self._column, str):
            return _pick(values, self._column)
        columns = [_pick(values, name) for name in self._column]
        return [dict(zip(self._column, row, strict=True)) for row in zip(*columns, strict=True)]


def _require_fields(values: list[Any], name: str, fields: Mapping[str, str]) -> None:
    """Raise `InputError` for a field that all rows lack: one row may lack it, but then it is misspelt."""
    for field, key in fields.items():
        get = _getter(field)
        if all(get(value) is _ABSENT for value in values):
            known = list(dict.fromkeys(chain.from_iterable(value for value in values if isinstance(value, dict))))
            problem = f'none of the first {len(values)} rows has "{field}"; {suggestion(field, known, "they have")}'
            raise InputError(f"{name}: {problem}", key=key)


def _pick(values: list[Any], field: str) -> list[Any]:
    get = _getter(field)
    return [None if value is _ABSENT else value for value in map(get, values)]


def _getter(field: str) -> Callable[[Any], Any]:
    """Return a function that gets a field, or the place that a JSON pointer names, from a value."""
    if not field.startswith("/"):
        return lambda value: value.get(field, _ABSENT)
    # RFC 6901 escapes ~ and / in this order, so they are restored in the other.
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in field[1:].split("/")]

    def get(value: Any) -> Any:
        for token in tokens:
            if isinstance(value, Mapping):
                value = value.get(token, _ABSENT)
            # str.isdecimal accepts digits of all scripts, but RFC 6901 only those of ASCII.
            elif isinstance(value, list) and token.isdecimal() and token.isascii() and int(token) < len(value):
                value = value[int(token)]
            else:
                return _ABSENT
        return value

    return get


def _parse(lines: list[bytes], first: int, name: str, fields: Mapping[str, str]) -> list[Any]:
    """Return the values of the lines that are not blank; ``first`` is the number of the first line."""
    plain = next((field for field in fields if not field.startswith("/")), None)
    # The choice of a parser is made once a block: the exact one, for long numbers, is slower.
    parse = exact_json.parser_for(b"\n".join(lines))
    values = []
    for number, line in enumerate(lines, first):
        if not line or line.isspace():
            continue
        try:
            value = parse(line)
        except orjson.JSONDecodeError as error:
            raise _not_json(line, error, number, name) from None
        if plain is not None and type(value) is not dict:
            problem = f'not an object, so it cannot have "{plain}"'
            raise InputError(f"{name}, line {number}: {problem}", key=fields[plain])
        values.append(value)
    return values


def _not_json(line: bytes, error: orjson.JSONDecodeError, number: int, name: str) -> InputError:
    # A text in another encoding is the likelier cause, and converting it the remedy.
    decode_line(line, name, number)
    if error.msg == exact_json.TOO_DEEP:
        return InputError(f"{name}, line {number}: {error.msg}", key="input.path")
    reason = str(error).partition(": line ")[0]
    return InputError(f"{name}, line {number}: not JSON ({reason}, column {error.colno})", key="input.path")
