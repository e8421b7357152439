"""Rows from columns of comma-separated values (RFC 4180) with a header, or of tab-separated ones."""

from __future__ import annotations

import csv
import re
from math import isfinite
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from fanout.errors import InputError
from fanout.io.readers import base
from fanout.io.readers.base import Source
from fanout.io.readers.columns import choose, ids_of, rows_of, with_missing
from fanout.io.readers.origins import File, line_blocks, lines_about, not_utf8
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.io.readers.columns import Column
    from fanout.io.readers.origins import Origin

Kind: TypeAlias = Literal["integers", "numbers", "texts"]

# What JSON takes for a number: neither 007 nor +49 nor NA is one, so codes and telephone numbers stay texts.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INT64, _EXACT = 2**63, 2**53
_MOST_DIGITS = 20
_OTHER_DELIMITERS = ";\t|,"


class CsvSource(Source):
    """Columns of delimited values, named by the first line of each file.

    A column is integers (int64), numbers (float64) or texts, by what its values in the first block are. An empty value
    is missing (None) among numbers, and an empty text among texts. A later value of another kind is refused.

    Raises:
        InputError: no header, or no such column; as it is read, a line with too many or too few values, or one whose
            quotes do not match, or a value that is no number in a column of numbers.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
        *,
        delimiter: str = ",",
    ) -> None:
        self._origins = origins
        self._column, self._id, self._delimiter = column, id, delimiter
        self.repeatable = all(origin.repeatable for origin in origins)
        self.files = tuple(origin.path for origin in origins if isinstance(origin, File))
        for origin in origins if self.repeatable else ():
            with origin.opened() as file:
                self._table(file, origin)

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        row = 0
        kinds: dict[str, Kind] = {}
        for origin in self._origins:
            with origin.opened() as file:
                table = self._table(file, origin)
                for records in table.records():
                    kinds = kinds or {name: _kind(table.values(records, name)) for name in table.columns.all}
                    yield table.block(records, kinds, row)
                    row += len(records)

    def rows_about(self) -> int | None:
        """See `Source.rows_about`."""
        lines = lines_about(self._origins, quoted=True)
        return lines if lines is None else max(0, lines - len(self._origins))

    def fingerprint(self) -> dict[str, Any] | None:
        """See `Source.fingerprint`."""
        files = [origin.fingerprint() for origin in self._origins]
        column = self._column if self._column is None or isinstance(self._column, str) else list(self._column)
        chosen = {"column": column, "id": self._id, "delimiter": self._delimiter}
        return None if None in files else {"format": "csv", "files": files, **chosen}

    def _table(self, file: IO[bytes], origin: Origin) -> _Table:
        return _Table(_Lines(file, origin.name), self._delimiter, self._column, self._id)


class _Lines:
    """The lines of a file as texts, with the number of bytes that they have taken so far."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file_name = name
        self.bytes_read = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for first, lines in line_blocks(self._file):
            for number, line in enumerate(lines, first):
                self.bytes_read += len(line) + 1
                try:
                    yield line.decode() + "\n"
                except UnicodeDecodeError:
                    raise not_utf8(self.file_name, number) from None


class _Record(NamedTuple):
    line: int
    """Where it begins: a quoted value may go over several lines."""

    values: list[str]


class _Table:
    """One file, its header read."""

    def __init__(
        self,
        lines: _Lines,
        delimiter: str,
        column: str | Sequence[str] | None,
        id: str | None,  # noqa: A002
    ) -> None:
        self._lines = lines
        self._name = lines.file_name
        # Strict, because a stray quote would else make one value of many lines.
        self._reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        self._header = self._read_header(delimiter)
        self.columns = choose(self._header, column, id, file=self._name)

    def _read_header(self, delimiter: str) -> list[str]:
        header = next(self._all(), None)
        if header is None:
            raise InputError(f"{self._name} is empty: its first line must name the columns", key="input.path")
        others = [other for other in _OTHER_DELIMITERS if other != delimiter and other in header.values[0]]
        if len(header.values) == 1 and others:
            told = f"its first line has {others[0]!r} in it, but no {delimiter!r}, which must separate the columns"
            hint = 'for tabs set format = "tsv"' if others[0] == "\t" else "convert the file first"
            raise InputError(f"{self._name}: {told}; {hint}", key="input.format")
        return header.values

    def records(self) -> Iterator[list[_Record]]:
        """The records behind the header, as many at a time as a block has."""
        found: list[_Record] = []
        until = self._lines.bytes_read + base.BLOCK_BYTES
        for record in self._all():
            if len(record.values) != len(self._header):
                told = f"{len(record.values)} values, where the header names {len(self._header)}"
                raise InputError(f"{self._name}, line {record.line}: {told}", key="input.path")
            found.append(record)
            if self._lines.bytes_read >= until:
                yield found
                found, until = [], self._lines.bytes_read + base.BLOCK_BYTES
        if found:
            yield found

    def _all(self) -> Iterator[_Record]:
        line = self._reader.line_num + 1
        try:
            for values in self._reader:
                if values:  # a blank line is none
                    yield _Record(line, values)
                line = self._reader.line_num + 1
        except csv.Error as error:
            told = f"{self._name}, line {line}: not readable as separated values: {error}"
            raise InputError(told, key="input.path") from None

    def values(self, records: list[_Record], name: str) -> list[str]:
        """One column of some records."""
        place = self._header.index(name)
        return [record.values[place] for record in records]

    def block(self, records: list[_Record], kinds: dict[str, Kind], first_row: int) -> Block:
        """The rows and ids of some records. Raises `InputError` for a value that is not of its column's kind."""
        taken = {name: self._column(records, name, kinds[name]) for name in self.columns.all}
        rows = rows_of({name: taken[name] for name in self.columns.names}, bare=self.columns.bare)
        name = self.columns.id
        if name is None:
            return Block(rows)
        ids = [value or None for value in taken[name]] if kinds[name] == "texts" else taken[name]
        return Block(rows, ids_of(ids, name, self._name, first_row))

    def _column(self, records: list[_Record], name: str, kind: Kind) -> Column:
        values = self.values(records, name)
        if kind == "texts":
            return values
        for record, value in zip(records, values, strict=True):
            if value and not _fits(value, kind):
                told = f'the value of "{name}" is not of the {kind} that the first rows hold'
                remedy = "quotes do not change that: use a format that knows types, Parquet or JSON lines"
                raise InputError(f"{self._name}, line {record.line}: {told}; {remedy}", key="input.path")
        dtype = np.int64 if kind == "integers" else np.float64
        present = np.array([value for value in values if value], dtype)
        return with_missing(present, np.array([not value for value in values]))


def _kind(values: list[str]) -> Kind:
    """What values are, going by those that are not empty."""
    present = [value for value in values if value]
    kinds: tuple[Kind, ...] = ("integers", "numbers")
    for kind in kinds:
        if present and all(_fits(value, kind) for value in present):
            return kind
    return "texts"


def _fits(value: str, kind: Kind) -> bool:
    """True if the value is of that kind, and nothing of it would be lost."""
    if _INTEGER.fullmatch(value):
        if len(value) > _MOST_DIGITS:  # int() refuses thousands of them
            return False
        return -_INT64 <= int(value) < _INT64 if kind == "integers" else abs(int(value)) <= _EXACT
    return kind == "numbers" and _NUMBER.fullmatch(value) is not None and isfinite(float(value))
