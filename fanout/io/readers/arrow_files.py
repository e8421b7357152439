"""Rows from Parquet files, and from Arrow IPC files in the file format (also called Feather) or the stream format."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.io.readers import base
from fanout.io.readers.arrow import ArrowColumns, pyarrow
from fanout.io.readers.base import FileSource, reading
from fanout.io.remote.file import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from fanout.arrow import Arrow
    from fanout.io.kept import Pieces
    from fanout.io.readers.columns import ColumnOptions
    from fanout.io.remote.file import InputPath
    from fanout.types import Block

# Parquet's metadata counts a repeated value of a dictionary once, so its sizes alone could ask for far too many rows.
_MOST_BATCH_ROWS = 8192
_ARROW_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"


class ParquetSource(FileSource):
    """Columns of a Parquet file, decoded as they are needed.

    Raises:
        InputError: not a Parquet file, no such column, a column that cannot be sent, or pyarrow is not installed.
    """

    _format = "parquet"

    def __init__(self, path: InputPath, columns: ColumnOptions) -> None:
        self.path = path
        with _reading(path, "a Parquet file"), self._open() as file:
            self._columns = ArrowColumns(file.schema_arrow, columns, path.name)
            self._groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if min(self._groups, default=0) < 0:
                raise ValueError(f"its metadata says {min(self._groups)} rows")
            self._row_bytes = _row_bytes(file, self._columns.paths)
        self._selection = self._columns.selection
        self.n_rows: int = sum(self._groups)
        self.schema = self._columns.schema

    def blocks_from(self, row: int) -> Iterator[Block]:
        groups, first_row = list(range(len(self._groups))), 0
        # Row groups that end before ``row`` are not read.
        while groups and first_row + self._groups[groups[0]] <= row:
            first_row += self._groups[groups.pop(0)]
        if not groups:
            return
        with _reading(self.path, "a Parquet file"), self._open() as file:
            batches = file.iter_batches(
                min(_MOST_BATCH_ROWS, base.rows_per_block(self._row_bytes)),
                row_groups=groups,
                columns=self._columns.paths,
                use_threads=False,
            )
            yield from self._columns.blocks_from(row, _validated(batches, self.n_rows - first_row), first_row)

    def kept_pieces(self, columns: ColumnOptions) -> tuple[dict[str, Any], Iterator[Pieces]]:
        with _reading(self.path, "a Parquet file"), self._open() as file:
            kept = ArrowColumns(file.schema_arrow, columns, self.path.name, sent=False)
            size = min(_MOST_BATCH_ROWS, base.rows_per_block(_row_bytes(file, kept.paths)))

        def read() -> Iterator[Pieces]:
            with _reading(self.path, "a Parquet file"), self._open() as file:
                yield from map(kept.pieces, _validated(file.iter_batches(size, columns=kept.paths, use_threads=False)))

        return kept.kept_types, read()

    def _open(self) -> Arrow:
        pyarrow()
        from pyarrow import parquet

        # With a buffer, a column of a row group is read piece by piece; without, all at once.
        with _reading(self.path, "a Parquet file"):
            file = _arrow_file(self.path)
            return parquet.ParquetFile(
                file, buffer_size=base.BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True
            )


class ArrowFileSource(FileSource):
    """Columns of an Arrow file, one record batch in memory at a time.

    Raises:
        InputError: not an Arrow file, no such column, a column that cannot be sent, or pyarrow is not installed.
    """

    _format = "arrow"

    def __init__(self, path: InputPath, columns: ColumnOptions) -> None:
        self.path = path
        with path.open("rb") as file:
            magic = file.read(len(_ARROW_MAGIC))
        if magic.startswith(_FEATHER_1_MAGIC):
            problem = "is in the first version of Feather, long superseded: read it with pandas and write it as Parquet"
            raise InputError(f"{path.name} {problem}", key="input.path")
        self._is_stream = magic != _ARROW_MAGIC
        with _reading(path, "an Arrow file"), self._open() as reader:
            self._columns = ArrowColumns(reader.schema, columns, path.name)
        self._selection = self._columns.selection
        # Only reading a stream to its end shows how many batches it has.
        self.n_rows = None if self._is_stream else self._count_rows()
        self.schema = self._columns.schema

    def blocks_from(self, row: int) -> Iterator[Block]:
        with _reading(self.path, "an Arrow file"), self._open(self._columns.top_level) as reader:
            stored = reader if self._is_stream else map(reader.get_batch, range(reader.num_record_batches))
            yield from self._columns.blocks_from(row, _validated(stored, self.n_rows))

    def kept_pieces(self, columns: ColumnOptions) -> tuple[dict[str, Any], Iterator[Pieces]]:
        with _reading(self.path, "an Arrow file"), self._open() as reader:
            kept = ArrowColumns(reader.schema, columns, self.path.name, sent=False)

        def read() -> Iterator[Pieces]:
            with _reading(self.path, "an Arrow file"), self._open(kept.top_level) as reader:
                stored = reader if self._is_stream else map(reader.get_batch, range(reader.num_record_batches))
                yield from map(kept.pieces, _validated(stored))

        return kept.kept_types, read()

    @contextmanager
    def _open(self, columns: Sequence[str] | None = None) -> Iterator[Arrow]:
        pyarrow()
        from pyarrow import ipc

        open_reader = ipc.open_stream if self._is_stream else ipc.open_file
        with _arrow_file(self.path) as file:
            reader = open_reader(file)
            if columns is not None:
                # Only these columns are read at all, which matters if the file is one large record batch.
                included = sorted(reader.schema.names.index(name) for name in columns)
                file.seek(0)
                reader = open_reader(file, options=ipc.IpcReadOptions(included_fields=included))
            yield reader

    def _count_rows(self) -> int:
        from pyarrow import dataset

        # A dataset counts by the metadata of the record batches, without reading them.
        with _reading(self.path, "an Arrow file"):
            n_rows = int(dataset.IpcFileFormat().make_fragment(_arrow_file(self.path)).count_rows())
            if n_rows < 0:
                raise ValueError(f"its metadata says {n_rows} rows")
            return n_rows


def _arrow_file(path: InputPath) -> Arrow:
    """Return the file as pyarrow reads it."""
    pa = pyarrow()
    return pa.PythonFile(path.open("rb"), "r") if isinstance(path, RemoteFile) else pa.OSFile(str(path))


def _reading(path: InputPath, what: str) -> AbstractContextManager[None]:
    return reading(path, what, plain=(pyarrow().ArrowException,))


def _validated(batches: Iterable[Arrow], n_rows: int | None = None) -> Iterator[Arrow]:
    """Yield the record batches of a file after a full check of each.

    pyarrow trusts the offsets in a file. Damaged ones point at foreign memory, which would be sent as text, or at
    unmapped memory, which ends the process.

    Raises:
        ArrowException: an offset, a length or a text is damaged.
        ValueError: there are not ``n_rows`` rows, if that is given.
    """
    total = 0
    for batch in batches:
        if batch.num_rows < 0:
            raise ValueError(f"a record batch of {batch.num_rows} rows")
        batch.validate(full=True)
        total += batch.num_rows
        yield batch
    if n_rows is not None and total != n_rows:
        raise ValueError(f"it has {total} rows, but its metadata says {n_rows}")


def _row_bytes(file: Arrow, columns: Sequence[str]) -> float:
    """Return the uncompressed size of some columns of a row in the first row group."""
    if not file.num_row_groups:
        return 0
    # Reading a column with damaged statistics raises an error; asking for its metadata alone ends the process.
    next(file.iter_batches(1, row_groups=[0], columns=columns, use_threads=False), None)
    group = file.metadata.row_group(0)
    # Lists and structs are stored as columns of their own, whose paths begin with the name.
    prefixes = tuple(f"{name}." for name in columns)
    parts = [i for i in range(group.num_columns) if f"{file.schema.column(i).path}.".startswith(prefixes)]
    return float(sum(group.column(i).total_uncompressed_size for i in parts) / max(1, group.num_rows))
