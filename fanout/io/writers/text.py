"""Answers as text: comma-separated values (RFC 4180) with a header, and JSON lines. Record i is row i."""

from __future__ import annotations

import csv
import json
import re
import sys
from contextlib import contextmanager
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson

from fanout.arrow import python_values
from fanout.io.writers.columns import is_text
from fanout.io.writers.spool import Group, SpoolSink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fanout.files import PartialFile
    from fanout.io.writers.columns import Layout, PackedColumns
    from fanout.rows import RowSet
    from fanout.types import Array, Values

_BLOCK_ROWS = 10_000
_QUOTED = re.compile('[,"\r\n]')

# A spreadsheet computes a cell that begins like this, also a text from an input or from a server.
_FORMULA = re.compile("'*[=+@\t\r-]")

NULL = b"null"

T = TypeVar("T")


class CsvSink(SpoolSink):
    """Writes a record a row: ids, kept columns, a column an output, and ``error``, the reason for a missing answer.

    Numbers are written as in JSON, lists as JSON. A missing value, NaN and infinities are empty. Kept columns of a CSV
    input are written as they are there.

    With ``safe``, a text that a spreadsheet would compute (it begins with ``=``, ``+``, ``-``, ``@``, a tab or a
    carriage return) gets an apostrophe in front, also behind apostrophes that it has already.
    """

    _verbatim = True

    _format = "CSV"

    def _assemble(self, ordered: PartialFile, layout: Layout, groups: Iterator[Group]) -> None:
        ordered.append((",".join(map(self._cell, layout.names)) + "\n").encode())
        for group in groups:
            columns: list[Iterable[str]] = [map(self._cell, group.answers.ids)] if layout.id else []
            columns += [map(self._cell, python_values(pieces)) for pieces in group.kept.values()]
            answers = self._answers(group)
            columns += [answers.get(name) or repeat("") for name in layout.outputs]
            errors = group.errors or [None] * group.answers.n_rows
            records = zip(*columns, map(self._cell, errors), strict=False)
            ordered.append("".join([",".join(record) + "\n" for record in records]).encode())

    def _answers(self, group: Group) -> dict[str, list[str]]:
        cells: dict[str, list[str]] = {}
        for name, (dtype, shape) in (self._schema or {}).items():
            array = group.answers.values(name)
            if is_text(dtype) and not shape:
                # A text is not JSON in a cell: it would have quotes there.
                present = [self._cell(value) for value in array.tolist()]
            else:
                present = ["" if value == NULL else _quoted(value.decode()) for value in array_cells(array)]
            cells[name] = spread(present, group.answers, "")
        return cells

    def _cell(self, value: Any) -> str:
        return csv_cell(value, safe=self._safe)

    def _published(self, layout: Mapping[str, Any], ok: RowSet) -> Iterator[tuple[int, Values, list[Any] | None]]:
        with _long_cells(), self.path.open(encoding="utf-8", newline="") as file:
            records = csv.reader(file, strict=True)
            header = next(records)
            for begin, block in _blocks(records, ok):
                yield begin, *self._values_of(block, header, layout)

    def _values_of(
        self, records: list[list[str]], header: list[str], layout: Mapping[str, Any]
    ) -> tuple[Values, list[Any] | None]:
        def column(name: str) -> list[str]:
            place = header.index(name)
            return [_without_mark(record[place]) if layout["safe"] else record[place] for record in records]

        values: dict[str, Array] = {}
        for name, (dtype, shape) in (self._schema or {}).items():
            texts = column(layout["outputs"][name])
            plain = is_text(dtype) and not shape
            parsed = texts if plain else [orjson.loads(text) if text else None for text in texts]
            values[name] = np.array(parsed, dtype).reshape(len(records), *shape)
        has_ids = layout["id"] in header
        return values, [_id(text) for text in column(layout["id"])] if has_ids else None


def csv_cell(value: Any, *, safe: bool) -> str:
    """Return a value as a cell; a ``safe`` text is one that no spreadsheet computes."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        text = value_cell(value).decode()
        # A date or a decimal is a text in JSON, whose quotes a cell does not need.
        if not text.startswith('"'):
            return _quoted(text)
        value = orjson.loads(text)
    return _quoted(f"'{value}" if safe and _FORMULA.match(value) else value)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _without_mark(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _id(text: str) -> Any:
    """Return an id that is written as ``text``: CSV does not distinguish 7 from "7", so it is the number."""
    if re.fullmatch("-?(0|[1-9][0-9]{0,18})", text):
        return int(text)
    return text or None


def _blocks(records: Iterator[T], ok: RowSet) -> Iterator[tuple[int, list[T]]]:
    """Yield the records of the rows in ``ok``, in blocks of bounded size, each with the number of its first row."""
    row = 0
    for start, stop in ok:
        # The records between the ranges are skipped without being kept.
        next(islice(records, start - row, start - row), None)
        for begin in range(start, stop, _BLOCK_ROWS):
            yield begin, list(islice(records, min(_BLOCK_ROWS, stop - begin)))
        row = stop


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let `csv` read cells of any length, which it otherwise refuses beyond 131,072 characters."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


class JsonLinesSink(SpoolSink):
    """Writes one JSON value a row: a number, text or list, or an object of several.

    A line is an object if the rows have ids, if columns of the input are kept, if the model has several outputs, or if
    an output is renamed. All objects have the same fields, of which the last, ``error``, is null or the reason why the
    row has no answer. Rows without an answer, NaN and infinities are ``null``, because JSON has no other value.
    """

    _format = "JSON"

    def _assemble(self, ordered: PartialFile, layout: Layout, groups: Iterator[Group]) -> None:
        bare = layout.id is None and not layout.kept and len(layout.outputs) == 1 and not self._rename
        # Objects are made of their values by one formatting each, which is quicker than a dict and its encoding.
        fields = b",".join(orjson.dumps(name).replace(b"%", b"%%") + b":%b" for name in layout.names)
        line = b"{" + fields + b"}\n"
        for group in groups:
            rows = group.answers
            answers = {name: spread(array_cells(rows.values(name)), rows, NULL) for name in self._schema or ()}
            values = [answers.get(name) or [NULL] * group.answers.n_rows for name in layout.outputs]
            if bare:
                ordered.append(b"\n".join([*values[0], b""]))
                continue
            columns: list[Iterable[bytes]] = [map(value_cell, group.answers.ids)] if layout.id else []
            columns += [map(value_cell, python_values(pieces)) for pieces in group.kept.values()]
            errors = repeat(NULL) if group.errors is None else map(value_cell, group.errors)
            ordered.append(b"".join(line % cells for cells in zip(*columns, *values, errors, strict=False)))

    def _published(self, layout: Mapping[str, Any], ok: RowSet) -> Iterator[tuple[int, Values, list[Any] | None]]:
        with self.path.open("rb") as lines:
            for begin, block in _blocks(lines, ok):
                yield begin, *self._values_of([orjson.loads(line) for line in block], layout)

    def _values_of(self, rows: list[Any], layout: Mapping[str, Any]) -> tuple[Values, list[Any] | None]:
        columns: dict[str, str] = layout["outputs"]
        # No output is an object, so a line that is one has the answers in its fields.
        named = bool(rows) and isinstance(rows[0], dict)
        has_ids = named and layout["id"] in rows[0]
        values = {}
        for name, (dtype, shape) in (self._schema or {}).items():
            column = [row[columns[name]] for row in rows] if named else rows
            values[name] = np.array(column, dtype).reshape(len(rows), *shape)
        return values, [row[layout["id"]] for row in rows] if has_ids else None


def spread(present: list[T], rows: PackedColumns, absent: T) -> list[T]:
    """Return ``present``, values of the rows with an answer, with ``absent`` for each of the others."""
    if len(present) == rows.n_rows:
        return present
    values = iter(present)
    return [next(values) if is_ok else absent for is_ok in rows.ok().tolist()]


def array_cells(array: Array) -> list[bytes]:
    """Return the rows of an array as JSON, ``null`` for NaN and infinities."""
    if is_text(array.dtype):
        return [orjson.dumps(row) for row in array.tolist()]
    if not len(array):
        return []
    # One call for all numbers takes a tenth of the time of one for each. No number has a comma in it.
    if array.ndim == 1:
        return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in np.ascontiguousarray(array)]


def value_cell(value: Any) -> bytes:
    """Return a Python value as JSON: what JSON has no value for is a text."""
    try:
        return orjson.dumps(value, default=_as_text)
    # orjson refuses integers of more than 64 bits, and dicts whose keys are no texts.
    except TypeError:
        return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":")).encode()


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
