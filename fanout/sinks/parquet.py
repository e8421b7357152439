"""Answers into a Parquet file: row i of the table is row i. Needs the extra ``arrow``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import ConfigError
from fanout.sinks.base import KEY
from fanout.sinks.spool import SpoolSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from fanout.rowset import RowSet
    from fanout.sinks.partial import Partial
    from fanout.types import Array, Done

_GROUP_ROWS = 2**16
_GROUP_BYTES = 64 * 2**20
_VALUE = "value"
"""Column of the only output, where it has no name."""


class ParquetSink(SpoolSink):
    """Writes one column an output: numbers, texts, or fixed-size lists of numbers for rows that have a shape.

    Rows without an answer are null. Where rows have ids, they are in the column ``id``.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 - said now, not when the first answer has come
        except ImportError:
            raise ConfigError(f"{path.name}: Parquet needs pyarrow: pip install 'fanout-ml[arrow]'", key=KEY) from None
        super().__init__(path)

    def _packed(self, chunk: Done, rows: slice) -> bytes:
        import pyarrow as pa

        ok = chunk.ok[rows]
        columns = {} if chunk.ids is None else {"id": pa.array(list(chunk.ids[rows]))}
        for name, array in (chunk.outputs or {}).items():
            columns[_column_name(name)] = _column(name, array[rows], ok)
        return _packed(pa.RecordBatch.from_pydict(columns))

    def _assemble(self, ordered: Partial, parts: Iterator[tuple[int, bytes | None]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        group: list[pa.RecordBatch] = []
        first = next((packed for _, packed in self._in_order(0) if packed is not None), None)
        schema = self._schema(first)
        with pq.ParquetWriter(ordered.path, schema) as writer:
            for batch in _batches(schema, parts):
                group.append(batch)
                if sum(map(len, group)) >= _GROUP_ROWS or sum(part.nbytes for part in group) >= _GROUP_BYTES:
                    writer.write_table(pa.Table.from_batches(group, schema))
                    group = []
            writer.write_table(pa.Table.from_batches(group, schema))

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

    def _schema(self, first: bytes | None) -> pa.Schema:
        import pyarrow as pa

        fields = []
        if first is not None and "id" in (names := pa.ipc.open_stream(first).schema).names:
            fields.append(names.field("id"))
        for name, (dtype, shape) in (self._form or {"": (np.dtype(float), ())}).items():
            fields.append(pa.field(_column_name(name), _type(name, dtype, shape)))
        return pa.schema(fields)


def _packed(batch: pa.RecordBatch) -> bytes:
    import pyarrow as pa

    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch)
    packed: bytes = out.getvalue().to_pybytes()
    return packed


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
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(name: str, array: Array, ok: Array) -> pa.Array:
    import pyarrow as pa

    absent = None if ok.all() else ~ok
    kind = _type(name, array.dtype, array.shape[1:])
    if array.ndim == 1:
        plain = array.tolist() if array.dtype.kind == "T" else np.ascontiguousarray(array)
        return pa.array(plain, kind, mask=absent)
    flat = array.reshape(-1)
    made = pa.array(flat.tolist() if array.dtype.kind == "T" else np.ascontiguousarray(flat))
    for length in reversed(array.shape[2:]):
        made = pa.FixedSizeListArray.from_arrays(made, length)
    return pa.FixedSizeListArray.from_arrays(made, array.shape[1], mask=None if absent is None else pa.array(absent))


def _type(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> pa.DataType:
    import pyarrow as pa

    if dtype.char in "FDGg" or 0 in shape:
        what = f"output {name!r}" if name else "the output"
        form = f"dtype {dtype}" if dtype.char in "FDGg" else f"rows of shape {list(shape)}"
        raise ConfigError(f"{what} has {form}, which Parquet cannot hold; write to a .npy file", key=KEY)
    kind = pa.string() if dtype.kind == "T" else pa.from_numpy_dtype(dtype)
    for length in reversed(shape):
        kind = pa.list_(kind, length)
    return kind


def _column_name(name: str) -> str:
    return name or _VALUE
