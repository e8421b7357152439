"""Rows from columns of a Parquet file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.io.readers import base, fingerprint
from fanout.io.readers.arrow import Selection, pyarrow, reading_arrow, validated
from fanout.io.readers.base import SeekableSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.io.readers.arrow import Arrow
    from fanout.types import Block

_BATCH_ROWS = 8192
"""Most rows decoded at once: what the file tells of their size is without the values that it holds but once."""


class ParquetSource(SeekableSource):
    """Columns of a Parquet file, decoded as they are needed.

    Raises:
        InputError: not a Parquet file, no such column, a column that cannot be sent, or pyarrow is not installed.
    """

    def __init__(
        self,
        path: Path,
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        self.path = path
        with reading_arrow(path, "a Parquet file"), self._opened() as file:
            self._selection = Selection(file.schema_arrow, column, id, path.name)
            self._groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if min(self._groups, default=0) < 0:
                raise ValueError(f"its metadata says {min(self._groups)} rows")
            self._row_bytes = _row_bytes(file, self._selection.leaves)
        self.n_rows = sum(self._groups)
        self.form = self._selection.form

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""
        assert self.n_rows is not None
        groups, first = list(range(len(self._groups))), 0
        while groups and first + self._groups[groups[0]] <= row:
            first += self._groups[groups.pop(0)]
        if not groups:
            return
        with reading_arrow(self.path, "a Parquet file"), self._opened() as file:
            batches = file.iter_batches(
                min(_BATCH_ROWS, base.rows_in_block(self._row_bytes)),
                row_groups=groups,
                columns=self._selection.leaves,
                use_threads=False,
            )
            yield from self._selection.blocks_from(row, validated(batches, self.n_rows - first), first)

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        return {"format": "parquet", "file": fingerprint.of_file(self.path), **self._selection.columns.described()}

    def _opened(self) -> Arrow:
        pyarrow()
        from pyarrow import parquet

        with reading_arrow(self.path, "a Parquet file"):
            # With a buffer, a column of a row group is read piece by piece; without, as a whole.
            return parquet.ParquetFile(
                self.path, buffer_size=base.BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True
            )


def _row_bytes(file: Arrow, columns: list[str]) -> float:
    """Size of some columns of a row in the first row group, before it is packed."""
    if not file.num_row_groups:
        return 0
    # Damaged statistics of a column are an error where it is read; its metadata alone would end the process.
    next(file.iter_batches(1, row_groups=[0], columns=columns, use_threads=False), None)
    group = file.metadata.row_group(0)
    below = tuple(f"{name}." for name in columns)  # lists and structs are stored by what is in them
    parts = [i for i in range(group.num_columns) if f"{file.schema.column(i).path}.".startswith(below)]
    return float(sum(group.column(i).total_uncompressed_size for i in parts) / max(1, group.num_rows))
