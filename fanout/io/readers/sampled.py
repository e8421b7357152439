"""Tables that are in memory: their rows by number, and a fingerprint of all of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from fanout.io.readers import fingerprint
from fanout.io.readers.base import SeekableSource, rows_in_block
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.types import Rows

_SAMPLE_ROWS = 16


class TableSource(SeekableSource):
    """Rows that can be had by their numbers.

    Args:
        n_rows: how many there are.
        form: names and types of the columns, as JSON can express them.
    """

    def __init__(self, n_rows: int, form: Any) -> None:
        self.n_rows: int = n_rows
        self._form = form

    @abstractmethod
    def rows(self, start: int, stop: int) -> Rows:
        """The rows ``start <= i < stop``, which are there."""

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""
        if row >= self.n_rows:
            return
        sample = min(_SAMPLE_ROWS, self.n_rows)
        size = rows_in_block(len(fingerprint.written(self.rows(0, sample))) / sample)
        for start in range(row, self.n_rows, size):
            yield Block(self.rows(start, min(start + size, self.n_rows)))

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        rows = (block.rows for block in self.blocks_from(0))
        return {"n_rows": self.n_rows, "form": self._form, "digest": fingerprint.of_rows(rows)}
