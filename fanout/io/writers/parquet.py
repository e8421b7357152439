"""Answers in a Parquet file: row i of the table is row i. Needs the extra ``arrow``.

The spool holds plain bytes, which take a fraction of the time of an Arrow record batch a chunk. At the end, the columns
of a whole row group are made of the joined bytes, with ``Array.from_buffers``: it copies nothing, and unlike
``pyarrow.array`` it does not import pandas, which takes 0.2 s.
"""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import ConfigError
from fanout.io.arrow import import_pyarrow, missing_pyarrow
from fanout.io.writers import packed
from fanout.io.writers.base import cannot_hold
from fanout.io.writers.packed import PackedColumns, is_text
from fanout.io.writers.spool import ID, SpoolSink, column_names
from fanout.paths import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.files import PartialFile
    from fanout.io.arrow import Arrow
    from fanout.io.writers.base import Checkpoint
    from fanout.rowset import RowSet
    from fanout.types import Array, ChunkResult

# A row group ends at either of these.
_GROUP_ROWS = 2**16
_GROUP_BYTES = 64 * 2**20


class ParquetSink(SpoolSink):
    """Writes one column an output: numbers, texts, or lists of them for rows that have a shape.

    Rows without an answer are null. If rows have ids, they are in the column ``id``; an output of that name is
    ``id_``. Ids are integers of 64 bits or texts. Ids of several types become texts, JSON for other values.

    Raises:
        ConfigError: pyarrow is not installed, or too old.
    """

    def __init__(self, path: Path) -> None:
        if (missing := missing_pyarrow()) is not None:
            raise ConfigError(f"{path.name}: Parquet needs {missing}", key=KEY)
        super().__init__(path)
        self._import: _ArrowImport | None = None

    def write(self, results: Sequence[ChunkResult]) -> None:
        # An installation that cannot be imported stops the run here, before more requests are paid for.
        if self._import is not None:
            self._import.wait()
        super().write(results)

    def close(self) -> None:
        if self._import is not None:
            self._import.join()
        super().close()

    def _open(self, n_rows: int | None, checkpoint: Checkpoint) -> None:
        super()._open(n_rows, checkpoint)
        self._import = _ArrowImport()

    def _encode(self, chunk: ChunkResult, rows: slice) -> bytes:
        ok = chunk.ok[rows]
        values: dict[str, Array] = {}
        for name, column in (chunk.outputs or {}).items():
            _require_writable(name, column.dtype, column.shape[1:])
            values[name] = column[rows] if ok.all() else column[rows][ok]
        return packed.pack(values, ok, None if chunk.ids is None else list(chunk.ids[rows]))

    def _cut(self, data: bytes, n_rows: int, start: int, stop: int) -> bytes:
        if stop - start == n_rows:
            return data
        part = PackedColumns(self._schema or {})
        part.add(n_rows, data)
        ok = part.ok()
        # Only the values of rows with an answer are stored.
        first, last = int(ok[:start].sum()), int(ok[:stop].sum())
        values = {name: part.values(name)[first:last] for name in self._schema or () if first < last}
        return packed.pack(values, ok[start:stop], part.ids[start:stop] if data[0] & packed.HAS_IDS else None)

    def _assemble(self, ordered: PartialFile, parts: Iterator[tuple[int, bytes | None]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self._arrow_schema()
        try:
            with pq.ParquetWriter(ordered.path, schema) as writer:
                for group in self._row_groups(parts):
                    writer.write_table(self._table(group, schema))
        # The rows are in the spool: the run stops, and can be resumed.
        except pa.ArrowException as error:
            raise OSError(" ".join(str(error).split())) from error

    def _row_groups(self, parts: Iterator[tuple[int, bytes | None]]) -> Iterator[PackedColumns]:
        """Yield the rows of each row group of the file; at least one, which may be empty."""
        group = PackedColumns(self._schema or {})
        for n_rows, data in parts:
            # The rows that a stopped run has not sent may be many millions.
            for begin in range(0, n_rows, _GROUP_ROWS if data is None else n_rows):
                if data is None:
                    group.add_absent(min(_GROUP_ROWS, n_rows - begin))
                else:
                    group.add(n_rows, data)
                if group.n_rows >= _GROUP_ROWS or group.n_bytes >= _GROUP_BYTES:
                    yield group
                    group = PackedColumns(self._schema or {})
        if group.n_rows or not self.finished_rows:
            yield group

    def _arrow_schema(self) -> Arrow:
        import pyarrow as pa

        # A single text among the ids makes a column of texts, so all ranges are asked before the first is written.
        flags = 0
        for first in self._first_bytes():
            flags |= first[0]
        fields = [pa.field(ID, _id_type(flags))] if flags & packed.HAS_IDS else []
        # If no row has an answer, there is an empty column of floats.
        schema = self._schema or {"": (np.dtype(float), ())}
        for name, column in column_names(schema).items():
            fields.append(pa.field(column, _arrow_type(*schema[name])))
        return pa.schema(fields)

    def _table(self, group: PackedColumns, schema: Arrow) -> Arrow:
        import pyarrow as pa

        ok = group.ok()
        columns = [_id_array(group.ids, schema.field(ID).type)] if ID in schema.names else []
        for name, (dtype, shape) in (self._schema or {}).items():
            columns.append(_array(dtype, shape, ok, *group.joined(name)))
        if not self._schema:
            columns.append(_array(np.dtype(float), (), ok, b"", b""))
        return pa.Table.from_arrays(columns, schema=schema)

    def _published_ranges(self, ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        import pyarrow.parquet as pq

        schema = self._schema or {}
        row = 0
        with pq.ParquetFile(self.path) as file:
            # One row group is in memory at a time.
            for batch in file.iter_batches(_GROUP_ROWS):
                end = row + len(batch)
                for start, stop in ((max(a, row), min(b, end)) for a, b in ok if a < end and b > row):
                    part = batch.slice(start - row, stop - start)
                    ids = part.column(ID).to_pylist() if ID in part.schema.names else None
                    columns = column_names(schema).items()
                    values = {name: _values_of(part.column(column), *schema[name]) for name, column in columns}
                    yield start, stop, packed.pack(values, np.ones(stop - start, bool), ids)
                row = end


class _ArrowImport(Thread):
    """Imports pyarrow while the first requests are under way."""

    def __init__(self) -> None:
        super().__init__(name="fanout-import-pyarrow")
        self._error: ImportError | None = None
        self.start()

    def run(self) -> None:
        try:
            import_pyarrow()
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            self._error = error

    def wait(self) -> None:
        """Wait for the import. Raises `ConfigError` if it failed."""
        self.join()
        if self._error is not None:
            raise ConfigError(f"Parquet needs {self._error}", key=KEY)


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], ok: Array, data: bytes, lengths: bytes) -> Arrow:
    """Return an Arrow array of rows from the values of those in ``ok``; the others are null."""
    import pyarrow as pa

    validity = None if ok.all() else pa.py_buffer(np.packbits(ok, bitorder="little"))
    if not shape:
        return _flat_array(dtype, data, lengths, ok, validity)
    array = _flat_array(dtype, data, lengths)
    for length in reversed(shape[1:]):
        array = _list_array(np.arange(0, len(array) + 1, length), array)
    # A row without an answer is null and has no elements: readers disagree on null lists that have some.
    ends = np.cumsum(ok) * shape[0]
    return _list_array(np.concatenate(([0], ends)), array, validity)


def _flat_array(
    dtype: np.dtype[Any], data: bytes, lengths: bytes, ok: Array | None = None, validity: Arrow = None
) -> Arrow:
    """Return an Arrow array of numbers or texts, with a place for each row that is not in ``ok``."""
    import pyarrow as pa

    if is_text(dtype):
        offsets = np.concatenate(([0], _spread(np.frombuffer(lengths, packed.LENGTH), ok).cumsum(dtype=np.int64)))
        buffers = [validity, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)
    array = _spread(np.frombuffer(data, dtype.newbyteorder("=")), ok)
    # Arrow stores a bool in a bit.
    stored = np.packbits(array, bitorder="little") if dtype.kind == "b" else array
    return pa.Array.from_buffers(_plain_type(dtype), len(array), [validity, pa.py_buffer(stored)])


def _spread(values: Array, ok: Array | None) -> Array:
    if ok is None or len(values) == len(ok):
        return values
    spread: Array = np.zeros(len(ok), values.dtype)
    spread[ok] = values
    return spread


def _list_array(offsets: Array, elements: Arrow, validity: Arrow = None) -> Arrow:
    import pyarrow as pa

    buffers = [validity, pa.py_buffer(offsets.astype(np.int32))]
    return pa.Array.from_buffers(_list_of(elements.type), len(offsets) - 1, buffers, children=[elements])


def _id_array(ids: list[Any], kind: Arrow) -> Arrow:
    import pyarrow as pa

    ok = np.array([one is not None for one in ids], bool)
    present = [one for one in ids if one is not None]
    if kind != pa.string():
        numbers = np.array(present, kind.to_pandas_dtype())
        return _array(numbers.dtype, (), ok, numbers.tobytes(), b"")
    texts = [str(packed.id_text(one)).encode() for one in present]
    lengths = np.fromiter(map(len, texts), packed.LENGTH, len(texts))
    return _array(np.dtypes.StringDType(), (), ok, b"".join(texts), lengths.tobytes())


def _values_of(column: Arrow, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return the values of a column without nulls; shape (rows, *shape)."""
    n_rows = len(column)
    for _ in shape:
        column = column.flatten()
    values = column.to_pylist() if is_text(dtype) else column.to_numpy(zero_copy_only=False)
    return np.array(values, dtype).reshape(n_rows, *shape)


def _require_writable(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype.char in "FDGg" or 0 in shape:
        problem = f"dtype {dtype}" if dtype.char in "FDGg" else f"rows of shape {list(shape)}"
        raise cannot_hold(name, f"has {problem}, which Parquet cannot hold", "write to a .npy file")


def _id_type(flags: int) -> Arrow:
    import pyarrow as pa

    # No integer type holds both negative numbers and those above the largest int64.
    if (
        flags & packed.TEXT_IDS
        or not flags & packed.INT_IDS
        or (flags & packed.NEGATIVE_IDS and flags & packed.LARGE_IDS)
    ):
        return pa.string()
    return pa.uint64() if flags & packed.LARGE_IDS else pa.int64()


def _arrow_type(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Arrow:
    kind = _plain_type(dtype)
    for _ in shape:
        kind = _list_of(kind)
    return kind


def _plain_type(dtype: np.dtype[Any]) -> Arrow:
    import pyarrow as pa

    return pa.string() if is_text(dtype) else pa.from_numpy_dtype(dtype)


def _list_of(kind: Arrow) -> Arrow:
    """Return the type of lists without a fixed length: pyarrow before 26 cannot read a null list of a fixed length.

    The element has the name that it gets in the file, so that lists read from a file have the same type.
    """
    import pyarrow as pa

    return pa.list_(pa.field("element", kind))
