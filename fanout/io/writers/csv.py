"""Answers in comma-separated values (RFC 4180), with a header: record i is row i."""

from __future__ import annotations

import csv
import re
import sys
from contextlib import contextmanager
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.io.kept import python_values
from fanout.io.writers.cells import NULL, array_cells, require_json, spread, value_cell
from fanout.io.writers.packed import is_text
from fanout.io.writers.spool import Group, SpoolSink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fanout.files import PartialFile
    from fanout.io.writers.columns import Layout
    from fanout.rowset import RowSet
    from fanout.types import Array, Values

_BLOCK_ROWS = 10_000
_QUOTED = re.compile('[,"\r\n]')

# A spreadsheet computes a cell that begins like this, also a text from an input or from a server.
_FORMULA = re.compile("'*[=+@\t\r-]")


class CsvSink(SpoolSink):
    """Writes a record a row: ids, kept columns, a column an output, and ``error``, the reason for a missing answer.

    Numbers are written as in JSON, lists as JSON. A missing value, NaN and infinities are empty. Kept columns of a CSV
    input are written as they are there.

    With ``safe``, a text that a spreadsheet would compute (it begins with ``=``, ``+``, ``-``, ``@``, a tab or a
    carriage return) gets an apostrophe in front, also behind apostrophes that it has already.
    """

    _verbatim = True

    def _require_holdable(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        require_json(name, dtype, "CSV")

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
            row = 0
            for start, stop in ok:
                next(islice(records, start - row, start - row), None)
                for begin in range(start, stop, _BLOCK_ROWS):
                    block = list(islice(records, min(_BLOCK_ROWS, stop - begin)))
                    yield begin, *self._values_of(block, header, layout)
                row = stop

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


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let `csv` read cells of any length, which it otherwise refuses beyond 131,072 characters."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
