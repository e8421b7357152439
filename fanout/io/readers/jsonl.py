"""Rows from JSON lines: a field of each value, several fields, or the whole value."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import orjson

from fanout import exact_json
from fanout.errors import InputError
from fanout.io.kept import KEEP, KeptColumns
from fanout.io.readers.columns import ColumnSelection, expand_patterns, require_renamable, suggestion
from fanout.io.readers.lines import LineSource, decode_line
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.io.kept import Pieces
    from fanout.io.readers.columns import ColumnOptions
    from fanout.io.readers.lines import ByteInput
    from fanout.io.readers.rows import Column

# None is a value in JSON, so a field that is not there needs another mark.
_ABSENT = object()


class JsonLinesSource(LineSource):
    """One JSON value a line; blank lines are no rows.

    ``column`` is a field of the objects, or a JSON pointer (RFC 6901) to a place deeper in them (``/a/b/0``). Several
    ``columns`` make rows that are dicts with them as keys, or lists of numbers; without either a row is the whole
    value. A field that a row does not have is None. ``id`` is a field or a pointer too.

    Raises:
        InputError: while reading: a line is not JSON, or is not an object although a field of it is wanted, or none of
            the first rows has a field.
    """

    _format = "jsonl"

    def __init__(self, inputs: Sequence[ByteInput], columns: ColumnOptions) -> None:
        super().__init__(inputs, **columns.as_json())
        self._columns = columns

    def blocks(self) -> Iterator[Block]:
        row = 0
        selection: ColumnSelection | None = None
        for name, values in self._parsed(self._fields()):
            # A pass that starts in the middle still reads from the beginning, so the same rows decide.
            if selection is None:
                selection = _select(values, self._columns, name)
            yield _block(values, selection, name, row)
            row += len(values)

    def keep(self, columns: ColumnOptions) -> KeptColumns:
        fields = dict.fromkeys(columns.columns or (), KEEP)
        # The first rows decide which fields a pattern stands for.
        first = next((_select(values, columns, name).names for name, values in self._parsed(fields)), ())

        def read() -> Iterator[Pieces]:
            for _, values in self._parsed(fields):
                yield {name: _pick(values, name) for name in first}

        return KeptColumns(first, read, files=self.files)

    def _parsed(self, fields: Mapping[str, str]) -> Iterator[tuple[str, list[Any]]]:
        """Yield the name of the input and some values at a time; ``fields`` are the wanted ones, as in `_fields`."""
        for name, first, lines in self._line_blocks():
            if values := _parse(lines, first, name, fields):
                yield name, values

    def _fields(self) -> dict[str, str]:
        """Return the fields to read, each with the key of the job file that names it."""
        options = self._columns
        column = {} if options.column is None else {options.column: "input.column"}
        columns = dict.fromkeys([*(options.columns or ()), *options.rename], "input.columns")
        return {**column, **columns, **dict.fromkeys(options.ids, "input.id")}


def _select(values: list[Any], options: ColumnOptions, name: str) -> ColumnSelection:
    """Return the selection, by the fields of the first rows.

    Raises:
        InputError: all of these rows lack a field: one row may lack it, but then it is misspelt.
    """
    known = list(dict.fromkeys(chain.from_iterable(value for value in values if isinstance(value, dict))))

    def require(field: str, key: str) -> None:
        get = _getter(field)
        if all(get(value) is _ABSENT for value in values):
            problem = f'none of the first {len(values)} rows has "{field}"; {suggestion(field, known, "they have")}'
            raise InputError(f"{name}: {problem}", key=key)

    names: tuple[str, ...] = () if options.column is None else (options.column,)
    if options.columns is not None:
        names = expand_patterns(options.columns, known, options.ids, name)
        require_renamable(options.rename, names, name)
    for field in names:
        require(field, "input.column" if options.columns is None else "input.columns")
    for field in options.rename:
        require(field, "input.rename")
    for field in options.ids:
        require(field, "input.id")
    return ColumnSelection(names, options)


def _block(values: list[Any], selection: ColumnSelection, name: str, first_row: int) -> Block:
    columns: dict[str, Column] = {field: _pick(values, field) for field in selection.all}
    ids = selection.ids(columns, name, first_row)
    options = selection.options
    if selection.names and (options.vector or options.columns is None):
        return Block(selection.rows(columns, name, first_row), ids)
    # Rows of several fields stay dicts of JSON values. Arrays would give all numbers of a field one type.
    if selection.names:
        labels = [options.rename.get(field, field) for field in selection.names]
        rows = zip(*(columns[field] for field in selection.names), strict=True)
        return Block([dict(zip(labels, row, strict=True)) for row in rows], ids)
    rename = options.rename
    return Block([_renamed(value, rename) for value in values] if rename else values, ids)


def _renamed(row: dict[str, Any], rename: Mapping[str, str]) -> dict[str, Any]:
    return {rename.get(field, field): value for field, value in row.items()}


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
