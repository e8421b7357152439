"""Rows of Arrow's tables and arrays in memory, of any library that gives them away (``__arrow_c_stream__``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.io.readers.arrow import Selection, pyarrow
from fanout.io.readers.base import Source
from fanout.io.readers.sampled import TableSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.io.readers.arrow import Arrow
    from fanout.types import Block, Rows

_TABLE = "the table"


class ArrowTableSource(TableSource):
    """A table: a mapping from column names to arrays, or bare values where it has one column; or an array.

    Raises:
        InputError: two columns of one name, no column, or one that no request can be made of.
    """

    def __init__(self, table: Any) -> None:
        self._table = _as_table(table)
        self._selection = _all_columns(self._table.schema)
        super().__init__(self._table.num_rows, self._selection.form)

    def rows(self, start: int, stop: int) -> Rows:
        """See `TableSource.rows`."""
        (batch,) = self._table.slice(start, stop - start).combine_chunks().to_batches()
        return self._selection.block(batch).rows


class ArrowStreamSource(Source):
    """A stream of record batches, which can be read once."""

    repeatable = False

    def __init__(self, stream: Any) -> None:
        self._reader = pyarrow().RecordBatchReader.from_stream(stream)
        self._selection = _all_columns(self._reader.schema)
        self._is_read = False

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        if self._is_read:
            raise InputError("a stream of record batches can be read only once; to read it again, make a table of it")
        self._is_read = True
        for batch in self._reader:
            yield from self._selection.blocks(batch, 0)

    def fingerprint(self) -> None:
        """See `Source.fingerprint`."""
        return


def _as_table(given: Any) -> Arrow:
    pa = pyarrow()
    try:
        if hasattr(given, "schema"):
            return pa.table(given)
        array = pa.chunked_array(given) if hasattr(given, "__arrow_c_stream__") else pa.array(given)
    except (pa.ArrowException, NotImplementedError) as error:
        told = " ".join(str(error).split())
        raise InputError(f"pyarrow cannot read the table ({told}); convert its columns first") from None
    return pa.table({"": array})


def _all_columns(schema: Arrow) -> Selection:
    names = schema.names
    return Selection(schema, names if len(names) > 1 else None, None, _TABLE)
