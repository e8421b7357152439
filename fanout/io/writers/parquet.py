"""Answers into a Parquet file: row i of the table is row i. Needs the extra ``arrow``."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.arrow import missing_pyarrow
from fanout.errors import ConfigError
from fanout.io.writers.spool import ID, SpoolSink, column_names
from fanout.paths import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from fanout.io.writers.base import Earlier
    from fanout.io.writers.partial import Partial
    from fanout.rowset import RowSet
    from fanout.types import Array, ChunkResult

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

    def _open(self, n_rows: int | None, earlier: Earlier) -> None:
        import pyarrow as pa

        # The first array makes pyarrow import pandas, where it is installed. Import it before requests are sent.
        pa.array([0])
        super()._open(n_rows, earlier)

    def _packed(self, chunk: ChunkResult, rows: slice) -> bytes:
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
        batch = _unpacked(data)
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

        schemas = list(map(_schema_of, {_head_of(data) for _, data in self._in_order(0) if data is not None}))
        fields = []
        if schemas and ID in schemas[0].names:
            kinds = {schema.field(ID).type for schema in schemas} - {pa.null()}
            # Ids of several types become texts: one column has one type.
            fields.append(pa.field(ID, kinds.pop() if len(kinds) == 1 else pa.string()))
        form = self._form or {"": (np.dtype(float), ())}
        for name, written in column_names(form).items():
            fields.append(pa.field(written, _type(name, *form[name])))
        return pa.schema(fields)


def _packed(batch: pa.RecordBatch) -> bytes:
    """The batch as an Arrow stream, without its end."""
    data: bytes = _head(batch.schema) + batch.serialize().to_pybytes()
    return data


@lru_cache(maxsize=64)  # most chunks of a run have the same schema
def _head(schema: pa.Schema) -> bytes:
    head: bytes = schema.serialize().to_pybytes()
    return head


def _unpacked(data: bytes) -> pa.RecordBatch:
    import pyarrow as pa

    head = _head_of(data)
    return pa.ipc.read_record_batch(pa.py_buffer(data).slice(len(head)), _schema_of(head))


def _head_of(data: bytes) -> bytes:
    """The schema's message: a mark and the length of what follows, four bytes each, come first."""
    return data[: 8 + int.from_bytes(data[4:8], "little")]


@lru_cache(maxsize=64)
def _schema_of(head: bytes) -> pa.Schema:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(head))


def _groups(batches: Iterator[tuple[pa.RecordBatch, int]]) -> Iterator[list[pa.RecordBatch]]:
    """The batches, given with their sizes, of each row group of the file; at least one group, which may be empty."""
    group: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch, size in batches:
        group.append(batch)
        n_rows, n_bytes = n_rows + len(batch), n_bytes + size
        if n_rows >= _GROUP_ROWS or n_bytes >= _GROUP_BYTES:
            yield group
            group, n_rows, n_bytes = [], 0, 0
    yield group


def _batches(schema: pa.Schema, parts: Iterator[tuple[int, bytes | None]]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The parts as batches with all columns of ``schema``, and their sizes; nulls where there is nothing."""
    import pyarrow as pa

    for n_rows, packed in parts:
        if packed is None:
            for begin in range(0, n_rows, _GROUP_ROWS):
                count = min(_GROUP_ROWS, n_rows - begin)
                nulls = [pa.nulls(count, field.type) for field in schema]
                yield pa.RecordBatch.from_arrays(nulls, schema=schema), 0
            continue
        batch = _unpacked(packed)
        yield batch if batch.schema.equals(schema) else _fitted(batch, schema), len(packed)


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = []
    for field in schema:
        if field.name not in batch.schema.names:
            columns.append(pa.nulls(len(batch), field.type))
        else:
            column = batch.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _ids(ids: list[Any]) -> pa.Array:
    """The rows' ids as a column of one type; where they have several, all become texts (JSON where they are none)."""
    import pyarrow as pa

    try:
        column = pa.array(ids)
    except (pa.ArrowException, OverflowError):
        pass
    else:
        if not column.type.num_fields:  # a list or an object cannot become a text later, where others are texts
            return column
    return pa.array([one if isinstance(one, str | None) else _as_json(one) for one in ids])


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))  # orjson refuses long integers


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
