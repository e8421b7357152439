"""Answers in a Parquet or Arrow file: row i of the table is row i. Needs the extra ``arrow``.

The spool holds plain bytes, which take a fraction of the time of an Arrow record batch a chunk. At the end, the columns
of a whole row group are made of the joined bytes, with ``Array.from_buffers``: it copies nothing, and unlike
``pyarrow.array`` it does not import pandas, which takes 0.2 s.
"""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.arrow import (
    arrow_column,
    as_text,
    import_pyarrow,
    missing_pyarrow,
    packed_array,
    rows_array,
    text_array,
    type_of_rows,
)
from fanout.errors import ConfigError
from fanout.io.kept import KEEP
from fanout.io.writers.base import cannot_hold
from fanout.io.writers.columns import INT_IDS, LARGE_IDS, NEGATIVE_IDS, TEXT_IDS, is_text
from fanout.io.writers.spool import Group, SpoolSink
from fanout.paths import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fanout.arrow import Arrow
    from fanout.files import PartialFile
    from fanout.io.kept import KeptColumns
    from fanout.io.writers.base import Checkpoint
    from fanout.io.writers.columns import Layout
    from fanout.results import ChunkResult
    from fanout.rows import RowSet
    from fanout.types import Array, Values


class ArrowTableSink(SpoolSink):
    """Writes one column an output: numbers, texts, or lists of them for rows that have a shape.

    Rows without an answer are null, and the column ``error`` has the reason. If rows have ids, they are in the column
    ``id``; an output of either name gets ``_`` appended. Ids are integers of 64 bits or texts. Ids of several types
    become texts, JSON for other values. Kept columns keep their Arrow type, those from other formats get one.

    Raises:
        ConfigError: pyarrow is not installed, or too old.
    """

    _group_rows = 2**16
    _group_bytes = 64 * 2**20

    def __init__(self, path: Path, rename: Mapping[str, str] | None = None, *, safe: bool = False) -> None:
        if (missing := missing_pyarrow()) is not None:
            raise ConfigError(f"{path.name}: {self._format} needs {missing}", key=KEY)
        super().__init__(path, rename, safe=safe)
        self._import: Future[None] | None = None

    def keep(self, columns: KeptColumns) -> None:
        super().keep(columns)
        if columns.types is None:
            return
        # The columns are written at the end, when every answer has been paid for: their types are tried now.
        pa = import_pyarrow()
        for name, kind in columns.types.items():
            schema = pa.schema([pa.field(name, kind)])
            try:
                with self._writer(io.BytesIO(), schema) as writer:
                    # An empty table without chunks: ``schema.empty_table`` would import pandas.
                    writer.write_table(pa.Table.from_batches([], schema))
            except (pa.ArrowException, NotImplementedError):
                problem = f'column "{name}" has the type {kind}, which {self._format} cannot hold'
                raise ConfigError(f"{problem}: leave it out, or cast it in the input", key=KEEP) from None

    def write(self, results: Sequence[ChunkResult]) -> None:
        # An installation that cannot be imported stops the run here, before more requests are paid for.
        if self._import is not None and (error := self._import.exception()) is not None:
            raise ConfigError(f"{self._format} needs {error}", key=KEY)
        super().write(results)

    def close(self) -> None:
        if self._import is not None:
            wait([self._import])
        super().close()

    @abstractmethod
    def _writer(self, target: Any, schema: Arrow) -> AbstractContextManager[Arrow]:
        """Return a writer of tables with the method ``write_table``."""

    @abstractmethod
    def _batches(self) -> Iterator[Arrow]:
        """Yield the record batches of the output that is in place, one in memory at a time."""

    def _open(self, n_rows: int | None, checkpoint: Checkpoint) -> None:
        super()._open(n_rows, checkpoint)
        # It takes 0.1 s, in which the first requests are under way.
        pool = ThreadPoolExecutor(1, "fanout-import-pyarrow")
        self._import = pool.submit(_import_all)
        pool.shutdown(wait=False)

    def _require_holdable(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        super()._require_holdable(name, dtype, shape)
        # Rows without an element do not show how many there are.
        if 0 in shape:
            problem = f"has rows of shape {list(shape)}, which {self._format} cannot hold"
            raise cannot_hold(name, problem, "write to a .npy file")

    def _assemble(self, ordered: PartialFile, layout: Layout, groups: Iterator[Group]) -> None:
        import pyarrow as pa

        schema = self._arrow_schema(layout)
        try:
            with self._writer(ordered.path, schema) as writer:
                # A file without rows has a row group too, which is empty.
                n_groups = 0
                for n_groups, group in enumerate(groups, 1):  # noqa: B007
                    writer.write_table(self._table(group, layout, schema))
                if not n_groups:
                    writer.write_table(schema.empty_table())
        # The rows are in the spool: the run stops, and can be resumed.
        except pa.ArrowException as error:
            raise OSError(" ".join(str(error).split())) from error

    def _arrow_schema(self, layout: Layout) -> Arrow:
        import pyarrow as pa

        # A single text among the ids makes a column of texts.
        fields = [pa.field(layout.id, _id_type(self._flags()))] if layout.id else []
        if self._kept is not None:
            fields += [pa.field(name, kind) for name, kind in self._kept.arrow_types().items()]
        # If no row has an answer, there is an empty column of floats.
        schema = self._schema or {"": (np.dtype(float), ())}
        fields += [pa.field(column, type_of_rows(*schema[name])) for name, column in layout.outputs.items()]
        return pa.schema([*fields, pa.field(layout.error, pa.string())])

    def _table(self, group: Group, layout: Layout, schema: Arrow) -> Arrow:
        import pyarrow as pa

        rows = group.answers
        ok = rows.ok()
        columns = [_id_array(rows.ids, schema.field(layout.id).type)] if layout.id else []
        columns += [arrow_column(pieces, schema.field(name).type) for name, pieces in group.kept.items()]
        for name, (dtype, shape) in (self._schema or {}).items():
            columns.append(packed_array(dtype, shape, ok, *rows.joined(name)))
        if not self._schema:
            columns.append(rows_array(np.zeros(0), ok))
        errors = pa.nulls(rows.n_rows, pa.string()) if group.errors is None else text_array(group.errors)
        return pa.Table.from_arrays([*columns, errors], schema=schema)

    def _published(self, layout: Mapping[str, Any], ok: RowSet) -> Iterator[tuple[int, Values, list[Any] | None]]:
        schema, row = self._schema or {}, 0
        for batch in self._batches():
            end = row + len(batch)
            for start, stop in ((max(a, row), min(b, end)) for a, b in ok if a < end and b > row):
                part = batch.slice(start - row, stop - start)
                has_ids = layout["id"] in part.schema.names
                columns: dict[str, str] = layout["outputs"]
                values = {name: _values_of(part.column(columns[name]), *schema[name]) for name in schema}
                yield start, values, part.column(layout["id"]).to_pylist() if has_ids else None
            row = end


class ParquetSink(ArrowTableSink):
    """Writes a Parquet file; see `ArrowTableSink`."""

    _format = "Parquet"

    def _writer(self, target: Any, schema: Arrow) -> AbstractContextManager[Arrow]:
        import pyarrow.parquet as pq

        writer: AbstractContextManager[Arrow] = pq.ParquetWriter(target, schema)
        return writer

    def _batches(self) -> Iterator[Arrow]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(self._group_rows)


class ArrowFileSink(ArrowTableSink):
    """Writes an Arrow IPC file (Feather, version 2), without compression; see `ArrowTableSink`."""

    _format = "Arrow"

    def _writer(self, target: Any, schema: Arrow) -> AbstractContextManager[Arrow]:
        from pyarrow import ipc

        sink = str(target) if isinstance(target, os.PathLike) else target
        # Record batches may have dictionaries of their own inside lists and structs.
        options = ipc.IpcWriteOptions(unify_dictionaries=True)
        writer: AbstractContextManager[Arrow] = ipc.new_file(sink, schema, options=options)
        return writer

    def _batches(self) -> Iterator[Arrow]:
        import pyarrow as pa
        from pyarrow import ipc

        with pa.OSFile(str(self.path)) as file, ipc.open_file(file) as reader:
            yield from map(reader.get_batch, range(reader.num_record_batches))


def _import_all() -> None:
    import_pyarrow()
    import pyarrow.parquet  # noqa: F401


def _id_array(ids: list[Any], kind: Arrow) -> Arrow:
    import pyarrow as pa

    ok = np.array([one is not None for one in ids], bool)
    present = [one for one in ids if one is not None]
    # Ids that are all integers go through numpy, without an object of Arrow for each.
    if kind != pa.string():
        return rows_array(np.array(present, kind.to_pandas_dtype()), ok)
    return text_array([as_text(one) for one in ids])


def _values_of(column: Arrow, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return the values of a column without nulls; shape (rows, *shape)."""
    n_rows = len(column)
    for _ in shape:
        column = column.flatten()
    values = column.to_pylist() if is_text(dtype) else column.to_numpy(zero_copy_only=False)
    return np.array(values, dtype).reshape(n_rows, *shape)


def _id_type(flags: int) -> Arrow:
    import pyarrow as pa

    # No integer type holds both negative numbers and those above the largest int64.
    if flags & TEXT_IDS or not flags & INT_IDS or (flags & NEGATIVE_IDS and flags & LARGE_IDS):
        return pa.string()
    return pa.uint64() if flags & LARGE_IDS else pa.int64()
