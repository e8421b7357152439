"""Answers in JSON lines: line i is row i."""

from __future__ import annotations

from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.io.kept import python_values
from fanout.io.writers.cells import NULL, answer_cells, require_json, value_cell
from fanout.io.writers.spool import Group, SpoolSink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fanout.files import PartialFile
    from fanout.io.writers.columns import Layout
    from fanout.rowset import RowSet
    from fanout.types import Values

_BLOCK_LINES = 10_000


class JsonLinesSink(SpoolSink):
    """Writes one JSON value a row: a number, text or list, or an object of several.

    A line is an object if the rows have ids, if columns of the input are kept, if the model has several outputs, or if
    an output is renamed. All objects have the same fields, of which the last, ``error``, is null or the reason why the
    row has no answer. Rows without an answer, NaN and infinities are ``null``, because JSON has no other value.
    """

    def _require_holdable(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        require_json(name, dtype, "JSON")

    def _assemble(self, ordered: PartialFile, layout: Layout, groups: Iterator[Group]) -> None:
        bare = layout.id is None and not layout.kept and len(layout.outputs) == 1 and not self._rename
        # Objects are made of their values by one formatting each, which is quicker than a dict and its encoding.
        fields = b",".join(orjson.dumps(name).replace(b"%", b"%%") + b":%b" for name in layout.names)
        line = b"{" + fields + b"}\n"
        for group in groups:
            answers = answer_cells(group.answers, self._schema or {})
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
            row = 0
            # The lines between the ranges are skipped without being kept.
            for start, stop in ok:
                next(islice(lines, start - row, start - row), None)
                for begin in range(start, stop, _BLOCK_LINES):
                    rows = [orjson.loads(line) for line in islice(lines, min(_BLOCK_LINES, stop - begin))]
                    yield begin, *self._values_of(rows, layout)
                row = stop

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
