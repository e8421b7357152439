"""Rows from columns of an Arrow file: the file format of Arrow IPC, also called Feather, or its stream format."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.io.readers import fingerprint
from fanout.io.readers.arrow import Selection, pyarrow, reading_arrow, validated
from fanout.io.readers.base import SeekableSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.io.readers.arrow import Arrow
    from fanout.types import Block

_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"
_WHAT = "an Arrow file"


class ArrowFileSource(SeekableSource):
    """Columns of an Arrow file, one record batch in memory at a time.

    Raises:
        InputError: not an Arrow file, no such column, a column that cannot be sent, or pyarrow is not installed.
    """

    def __init__(
        self,
        path: Path,
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        self.path = path
        with path.open("rb") as file:
            magic = file.read(len(_FILE))
        if magic.startswith(_FEATHER_1):
            told = "is in the first version of Feather, long superseded: read it with pandas and write it as Parquet"
            raise InputError(f"{path.name} {told}", key="input.path")
        self._is_stream = magic != _FILE
        with reading_arrow(path, _WHAT), self._reader() as reader:
            self._selection = Selection(reader.schema, column, id, path.name)
        self.n_rows = None if self._is_stream else self._counted()
        self.form = self._selection.form

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""
        with reading_arrow(self.path, _WHAT), self._reader(self._selection.top) as reader:
            yield from self._selection.blocks_from(row, validated(self._batches(reader), self.n_rows))

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        return {"format": "arrow", "file": fingerprint.of_file(self.path), **self._selection.columns.described()}

    def _batches(self, reader: Arrow) -> Iterator[Arrow]:
        if self._is_stream:
            yield from reader
        else:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)

    @contextmanager
    def _reader(self, columns: Sequence[str] | None = None) -> Iterator[Arrow]:
        pa = pyarrow()
        from pyarrow import ipc

        with pa.OSFile(str(self.path)) as file:
            opened = ipc.open_stream if self._is_stream else ipc.open_file
            if columns is None:
                yield opened(file)
                return
            # Only these columns are read at all, which matters where there is one large record batch.
            names = opened(file).schema.names
            file.seek(0)
            options = ipc.IpcReadOptions(included_fields=sorted(names.index(name) for name in columns))
            yield opened(file, options=options)

    def _counted(self) -> int:
        from pyarrow import dataset

        with reading_arrow(self.path, _WHAT):  # goes by the metadata of the batches
            n_rows = int(dataset.dataset(self.path, format="ipc").count_rows())
            if n_rows < 0:
                raise ValueError(f"its metadata says {n_rows} rows")
            return n_rows
