"""Rows from columns of comma-separated values (RFC 4180) with a header, or of tab-separated ones."""

from __future__ import annotations

import csv
import re
from math import isfinite
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from fanout.errors import InputError
from fanout.io.kept import KeptColumns, Parser
from fanout.io.readers import base
from fanout.io.readers.columns import ColumnOptions, select_columns
from fanout.io.readers.lines import LineSource, decode_line, line_blocks
from fanout.io.readers.rows import insert_missing
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fanout.io.kept import Pieces
    from fanout.io.readers.lines import ByteInput
    from fanout.io.readers.rows import Column

Kind: TypeAlias = Literal["integers", "numbers", "texts"]
_NUMERIC: Sequence[Kind] = ("integers", "numbers")

# Numbers are written as in JSON: 007, +49 and NA are none, so that codes and telephone numbers stay texts.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INT64 = 2**63
# float64 holds every integer up to this one exactly.
_EXACT = 2**53
_MOST_DIGITS = 20
_OTHER_DELIMITERS = ";\t|,"


class CsvSource(LineSource):
    """Columns of delimited values, named by the first line of each file.

    The values of a column in the first block decide its kind: integers (int64), numbers (float64) or texts. An empty
    value is missing (None) among numbers, and an empty text among texts. A later value of another kind is an error.

    Raises:
        InputError: there is no header, or no such column; while reading: a line has too many or too few values, or
            unbalanced quotes, or a value that is not of its column's kind.
    """

    _format = "csv"
    _quoted = True

    def __init__(
        self,
        inputs: Sequence[ByteInput],
        columns: ColumnOptions,
        *,
        delimiter: str = ",",
    ) -> None:
        super().__init__(inputs, **columns.as_json(), delimiter=delimiter)
        self._columns, self._delimiter = columns, delimiter
        # Stdin can be read only once, so its header is checked with its rows.
        for one in inputs if self.repeatable else ():
            with one.open() as file:
                _Table(file, one.name, columns, delimiter)

    def blocks(self) -> Iterator[Block]:
        row = 0
        kinds: dict[str, Kind] = {}
        for table, records in self._record_blocks(self._columns):
            # The kinds of the first file hold for all: a later one must not change the type of a column.
            kinds = kinds or table.kinds(records)
            yield table.block(records, kinds, row)
            row += len(records)

    def keep(self, columns: ColumnOptions) -> KeptColumns:
        with self._inputs[0].open() as file:
            names = _Table(file, self._inputs[0].name, columns, self._delimiter).selection.names

        def read() -> Iterator[Pieces]:
            for table, records in self._record_blocks(columns):
                yield {name: table.values(records, name) for name in names}

        return KeptColumns(names, read, files=self.files, parsers=_parsers)

    def _record_blocks(self, columns: ColumnOptions) -> Iterator[tuple[_Table, list[_Record]]]:
        """Yield the records of all files, a block at a time, with their table."""
        for one in self._inputs:
            with one.open() as file:
                table = _Table(file, one.name, columns, self._delimiter)
                for records in table.record_blocks():
                    yield table, records

    def estimate_rows(self) -> int | None:
        lines = super().estimate_rows()
        return lines if lines is None else max(0, lines - len(self._inputs))


class _Record(NamedTuple):
    """The values of a row, and the number of the line at which it begins: a quoted value may span several lines."""

    line: int
    values: list[str]


class _Table:
    """One file with its header."""

    def __init__(self, file: IO[bytes], name: str, columns: ColumnOptions, delimiter: str) -> None:
        self._file = file
        self._name = name
        self._bytes_read = 0
        # Without strict, a stray quote would make one value of many lines.
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)
        self._records = self._read_records()
        self._header = self._read_header(delimiter)
        self.selection = select_columns(self._header, columns, file=name)

    def record_blocks(self) -> Iterator[list[_Record]]:
        """Yield the records after the header, a block at a time."""
        records: list[_Record] = []
        until = self._bytes_read + base.BLOCK_BYTES
        for record in self._records:
            if len(record.values) != len(self._header):
                problem = f"{len(record.values)} values, but the header names {len(self._header)}"
                raise InputError(f"{self._name}, line {record.line}: {problem}", key="input.path")
            records.append(record)
            if self._bytes_read >= until:
                yield records
                records, until = [], self._bytes_read + base.BLOCK_BYTES
        if records:
            yield records

    def kinds(self, records: list[_Record]) -> dict[str, Kind]:
        """Return the kind of each selected column, judged by some records."""
        return {name: _kind_of(self.values(records, name)) for name in self.selection.all}

    def block(self, records: list[_Record], kinds: dict[str, Kind], first_row: int) -> Block:
        """Return the rows and ids of some records. Raises `InputError` for a value that is not of its column's kind."""
        selection = self.selection
        columns = {name: self._column(records, name, kinds[name]) for name in selection.all}
        # An empty text is a value like any other among the rows, but no id.
        ids = {
            name: [value or None for value in columns[name]] if kinds[name] == "texts" else columns[name]
            for name in selection.options.ids
        }
        rows = selection.rows(columns, self._name, first_row)
        return Block(rows, selection.ids(ids, self._name, first_row))

    def _lines(self) -> Iterator[str]:
        for first, lines in line_blocks(self._file):
            for number, line in enumerate(lines, first):
                self._bytes_read += len(line) + 1
                yield decode_line(line, self._name, number) + "\n"

    def _read_records(self) -> Iterator[_Record]:
        line = self._reader.line_num + 1
        try:
            for values in self._reader:
                # A blank line is no record.
                if values:
                    yield _Record(line, values)
                line = self._reader.line_num + 1
        except csv.Error as error:
            problem = f"not readable as separated values: {error}"
            raise InputError(f"{self._name}, line {line}: {problem}", key="input.path") from None

    def _read_header(self, delimiter: str) -> list[str]:
        header = next(self._records, None)
        if header is None:
            raise InputError(f"{self._name} is empty: its first line must name the columns", key="input.path")
        # A wrong delimiter makes one column of all, whose name would be reported as unknown.
        others = [other for other in _OTHER_DELIMITERS if other != delimiter and other in header.values[0]]
        if len(header.values) == 1 and others:
            problem = f"its first line has {others[0]!r} in it, but no {delimiter!r}, which must separate the columns"
            remedy = 'for tabs set format = "tsv"' if others[0] == "\t" else "convert the file first"
            raise InputError(f"{self._name}: {problem}; {remedy}", key="input.format")
        return header.values

    def values(self, records: list[_Record], name: str) -> list[str]:
        place = self._header.index(name)
        return [record.values[place] for record in records]

    def _column(self, records: list[_Record], name: str, kind: Kind) -> Column:
        values = self.values(records, name)
        if kind == "texts":
            return values
        for record, value in zip(records, values, strict=True):
            if value and not _is_of_kind(value, kind):
                problem = f'the value of "{name}" is not of the {kind} that the first rows hold'
                remedy = "quotes do not change that: use a format that knows types, Parquet or JSON lines"
                raise InputError(f"{self._name}, line {record.line}: {problem}; {remedy}", key="input.path")
        present = np.array([value for value in values if value], np.int64 if kind == "integers" else np.float64)
        return insert_missing(present, np.array([not value for value in values]))


def _parsers(pieces: Iterator[Pieces]) -> Mapping[str, Parser]:
    """Return the parser of each kept column with values: of numbers if all of its values are, else of texts.

    Unlike the columns that are sent, these are read to their end first: a later value of another kind is no error.
    """
    kinds: dict[str, Sequence[Kind]] = {}
    for columns in pieces:
        for name, values in columns.items():
            if present := [value for value in values if value]:
                # Numbers do not hold all integers, so that each kind has to hold the values of every piece.
                kinds[name] = _kinds_of(present, kinds.get(name, _NUMERIC))
    return {name: _parser(fitting[0] if fitting else "texts") for name, fitting in kinds.items()}


def _parser(kind: Kind) -> Parser:
    if kind == "texts":
        return Parser(lambda values: values, "string")
    convert = float if kind == "numbers" else int
    arrow_type = "float64" if convert is float else "int64"
    return Parser(lambda values: [convert(value) if value else None for value in values], arrow_type)


def _kind_of(values: list[str]) -> Kind:
    """Return the narrowest kind that holds all values that are not empty."""
    present = [value for value in values if value]
    for kind in _NUMERIC:
        if present and _kinds_of(present, (kind,)):
            return kind
    return "texts"


def _kinds_of(present: list[str], kinds: Sequence[Kind]) -> list[Kind]:
    """Return those of the ``kinds`` that hold all values."""
    return [kind for kind in kinds if all(_is_of_kind(value, kind) for value in present)]


def _is_of_kind(value: str, kind: Kind) -> bool:
    """Return True if the value is of that kind and its dtype holds it exactly."""
    if _INTEGER.fullmatch(value):
        # int() raises ValueError for thousands of digits.
        if len(value) > _MOST_DIGITS:
            return False
        return -_INT64 <= int(value) < _INT64 if kind == "integers" else abs(int(value)) <= _EXACT
    return kind == "numbers" and _NUMBER.fullmatch(value) is not None and isfinite(float(value))
