"""Answers into a Parquet file: row i of the table is row i. Needs the extra ``arrow``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.arrow import missing_pyarrow
from fanout.errors import ConfigError
from fanout.paths import KEY
from fanout.sinks.spool import ID, SpoolSink, column_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from fanout.rowset import RowSet
    from fanout.sinks.partial import Partial
    from fanout.types import Array, Done

_GROUP_ROWS = 2**16
_GROUP_BYTES = 64 * 2**20


class ParquetSink(SpoolSink):
    """Writes one column an output: numbers, texts, or lists of them for rows that have a shape.

    Rows without an answer are null. Where rows have ids, they are in the column ``id``; an output of that name is
    ``id_``.

    Raises:
        ConfigError: pyarrow is not installed, or too old.
    """

    def __init__(self, path: Path) -> None:
        if (missing := missing_pyarrow()) is not None:
            raise ConfigError(f"{path.name}: Parquet needs {missing}", key=KEY)
        import pyarrow.parquet  # noqa: F401 - loaded before the first request, when descriptors are free

        super().__init__(path)

    def _packed(self, chunk: Done, rows: slice) -> bytes:
        import pyarrow as pa

        ok = chunk.ok[rows]
        outputs = chunk.outputs or {}
        columns = {} if chunk.ids is None else {ID: _ids(list(chunk.ids[rows]))}
        for name, written in column_names(outputs).items():
            columns[written] = _column(name, outputs[name][rows], ok)
        return _packed(pa.RecordBatch.from_pydict(columns))

    def _assemble(self, ordered: Partial, parts: Iterator[tuple[int, bytes | None]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self._schema()
        try:
            with pq.ParquetWriter(ordered.path, schema) as writer:
                for group in _groups(_batches(schema, parts)):
                    # One piece a column: the writer has a cost for each piece, and a chunk may be a single row.
                    writer.write_table(pa.Table.from_batches(group, schema).combine_chunks())
        except pa.ArrowException as error:  # the rows are in the spool: the run stops, and can be resumed
            raise OSError(" ".join(str(error).split())) from error

    def _part(self, data: bytes, start: int, stop: int) -> bytes:
        import pyarrow as pa

        batch = pa.ipc.open_stream(data).read_next_batch()
        return data if stop - start == len(batch) else _packed(batch.slice(start, stop - start))

    def _published(self, ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        import pyarrow.parquet as pq

        row = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_GROUP_ROWS):
                end = row + len(batch)
                for start, stop in ((max(a, row), min(b, end)) for a, b in ok if a < end and b > row):
                    yield start, stop, _packed(batch.slice(start - row, stop - start))
                row = end

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        packed = (data for _, data in self._in_order(0) if data is not None)
        first = next(packed, None)
        fields = []
        if first is not None and ID in pa.ipc.open_stream(first).schema.names:
            kinds = {pa.ipc.open_stream(data).schema.field(ID).type for data in (first, *packed)} - {pa.null()}
            # Ids of several types become texts: one column has one type.
            fields.append(pa.field(ID, kinds.pop() if len(kinds) == 1 else pa.string()))
        form = self._form or {"": (np.dtype(float), ())}
        for name, written in column_names(form).items():
            fields.append(pa.field(written, _type(name, *form[name])))
        return pa.schema(fields)


def _packed(batch: pa.RecordBatch) -> bytes:
    import pyarrow as pa

    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch)
    packed: bytes = out.getvalue().to_pybytes()
    return packed


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """The batches of each row group of the file; at least one group, which may be empty."""
    group: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in batches:
        group.append(batch)
        n_rows, n_bytes = n_rows + len(batch), n_bytes + batch.nbytes
        if n_rows >= _GROUP_ROWS or n_bytes >= _GROUP_BYTES:
            yield group
            group, n_rows, n_bytes = [], 0, 0
    yield group


def _batches(schema: pa.Schema, parts: Iterator[tuple[int, bytes | None]]) -> Iterator[pa.RecordBatch]:
    """The parts as batches with all columns of ``schema``; nulls where there is nothing."""
    import pyarrow as pa

    for n_rows, packed in parts:
        if packed is None:
            for begin in range(0, n_rows, _GROUP_ROWS):
                count = min(_GROUP_ROWS, n_rows - begin)
                yield pa.RecordBatch.from_arrays([pa.nulls(count, field.type) for field in schema], schema=schema)
            continue
        batch = pa.ipc.open_stream(packed).read_next_batch()
        columns = [
            batch.column(field.name) if field.name in batch.schema.names else pa.nulls(len(batch), field.type)
            for field in schema
        ]
        if schema.names[0] == ID and columns[0].type != schema.field(0).type:
            columns[0] = columns[0].cast(schema.field(0).type)
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _ids(ids: list[Any]) -> pa.Array:
    """The rows' ids as a column of one type; where they have several, all become texts (JSON where they are none)."""
    import pyarrow as pa

    with suppress(pa.ArrowException, OverflowError):
        column = pa.array(ids)
        if not pa.types.is_nested(column.type):
            return column
    return pa.array([one if isinstance(one, str | None) else orjson.dumps(one, default=str).decode() for one in ids])


def _column(name: str, array: Array, ok: Array) -> pa.Array:
    import pyarrow as pa

    absent = None if ok.all() else ~ok
    kind = _type(name, array.dtype, array.shape[1:])
    if array.ndim == 1:
        plain = array.tolist() if array.dtype.kind == "T" else np.ascontiguousarray(array)
        return pa.array(plain, kind, mask=absent)
    flat = (array if absent is None else array[ok]).reshape(-1)
    made = pa.array(flat.tolist() if array.dtype.kind == "T" else np.ascontiguousarray(flat), _plain_type(array.dtype))
    for length in reversed(array.shape[2:]):
        made = _lists(np.arange(0, len(made) + 1, length), made)
    # A row without an answer is null and has no elements: readers disagree on null lists that have some.
    ends = np.cumsum(ok) * array.shape[1]
    return _lists(np.concatenate(([0], ends)), made, None if absent is None else pa.array(absent))


def _lists(offsets: Array, elements: pa.Array, absent: pa.Array | None = None) -> pa.Array:
    import pyarrow as pa

    kind = _list_of(elements.type)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements, type=kind, mask=absent)


def _list_of(kind: pa.DataType) -> pa.DataType:
    """Lists without a fixed length, for a fixed one cannot be read by pyarrow before 26 where a row is null.

    The name of the element is the one that it has in the file, so that lists read from a file are of the same type.
    """
    import pyarrow as pa

    return pa.list_(pa.field("element", kind))


def _type(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> pa.DataType:
    if dtype.char in "FDGg" or 0 in shape:
        what = f"output {name!r}" if name else "the output"
        form = f"dtype {dtype}" if dtype.char in "FDGg" else f"rows of shape {list(shape)}"
        raise ConfigError(f"{what} has {form}, which Parquet cannot hold; write to a .npy file", key=KEY)
    kind = _plain_type(dtype)
    for _ in shape:
        kind = _list_of(kind)
    return kind


def _plain_type(dtype: np.dtype[Any]) -> pa.DataType:
    import pyarrow as pa

    return pa.string() if dtype.kind == "T" else pa.from_numpy_dtype(dtype)
