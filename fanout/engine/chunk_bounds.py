"""The bounds of the chunks that a chunker cuts: rows, bytes and tokens, and ranges of rows that stay together."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanout.engine.packing import Packed, Packing
    from fanout.limits.size_limits import Size, SizeLimits
    from fanout.types import Chunk, Rows


class ChunkBounds:
    """Bounds the next chunk of one run.

    Args:
        rows: most rows of a chunk; `limit` lowers it while the run goes on.
        packing: bounds chunks by bytes or tokens, from the start or once the endpoint turns out to have such bounds.
    """

    def __init__(self, rows: int, packing: Packing | None = None) -> None:
        self.rows = rows
        self.spare_packing = packing
        self.packing = packing if packing is not None and packing.bounded else None
        """The packing that is in effect."""

        self.sizes: SizeLimits | None = None
        """Limits on the size of a request, as far as they are learnt."""

        self.fixed: FixedCuts | None = None
        """Rows that have to go together, whatever bounds the other chunks."""

        self.size: Size | None = None
        """The limits of the chunk that is being cut, where some are learnt."""

    def limit(self, rows: int) -> None:
        """Chunks cut from now on have at most ``rows`` rows."""
        self.rows = min(self.rows, rows)

    def fix(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Cut the rows of each range, from start to stop, as one chunk."""
        self.fixed = FixedCuts(ranges)

    def most_rows(self, position: int) -> tuple[int, bool]:
        """Return the most rows of the chunk at ``position``, and whether it has to be packed as well."""
        if self.fixed is None:
            return self._most_rows(), self.packing is not None
        # The job for these rows exists already: neither a learnt limit nor the packing may cut them.
        if (n_rows := self.fixed.at(position)) is not None:
            return n_rows, False
        return self.fixed.most_before_next(position, self._most_rows()), self.packing is not None

    def pack(self, position: int, rows: Rows, offset: int, n_rows: int) -> Packed:
        """Fit as many of ``n_rows`` rows from ``offset`` on into the chunk at ``position`` as the packing allows."""
        assert self.packing is not None
        return self.packing.fit(position, rows, offset, n_rows, self.size)

    def note_cut(self, chunk: Chunk) -> None:
        """Note the chunk that was cut within `size`."""
        assert self.sizes is not None
        assert self.size is not None
        self.sizes.cut(chunk, self.size)
        self.size = None

    def _most_rows(self) -> int:
        if self.sizes is None or self.sizes.limits is None:
            return self.rows
        self.size = size = self.sizes.next()
        if size is None:
            return self.rows
        # Weighing rows costs time, so that it begins only once the endpoint turns out to have such a limit.
        if self.packing is None and min(size.n_bytes, size.tokens) < inf:
            self.packing = self.spare_packing
        return max(1, int(min(self.rows, size.rows)))


class FixedCuts:
    """Ranges of rows, each of which becomes one chunk: an asynchronous API works at a job for exactly these rows.

    Args:
        ranges: start and stop of each; they do not overlap.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ranges = deque(sorted(ranges))

    def at(self, position: int) -> int | None:
        """Return the number of rows of the range that begins at ``position``; None if none does.

        Positions of successive calls do not decrease.
        """
        # Ranges whose rows are done already are passed over.
        while self._ranges and self._ranges[0][0] < position:
            self._ranges.popleft()
        if not self._ranges or self._ranges[0][0] > position:
            return None
        return self._ranges[0][1] - position

    def most_before_next(self, position: int, most: int) -> int:
        """Return ``most``, or the smaller number of rows from ``position`` to the next range."""
        return min(most, self._ranges[0][0] - position) if self._ranges else most
