"""When a chunk may be split to find the row, or the size, that the server does not take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.rowset import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.task import ChunkTask

_ENOUGH_ISOLATED = 64
_HOPELESS_ALONE = 2
_HOPELESS_LATER = 64
"""The same where an earlier run of the same codec and path has answers: the last rows may well be the bad ones."""


class BisectionBudget:
    """The bounds on splitting in one run, so that a request that is wrong as a whole costs few requests.

    Until something has succeeded only one chunk is split, and two failed single rows end the run. Later, splitting
    ends when more than half of at least 64 rows that were isolated, alone or with others, have failed.

    Args:
        something_succeeded: True once the endpoint has given an answer.
        failed_alone: rows that failed alone in an earlier run: that they fail again says nothing of the endpoint.
        answered_before: an earlier run has answers.
    """

    def __init__(
        self,
        something_succeeded: Callable[[], bool],
        *,
        failed_alone: RowSet | None = None,
        answered_before: bool = False,
    ) -> None:
        self._something_succeeded = something_succeeded
        self._failed_alone = failed_alone or RowSet()
        self._hopeless = _HOPELESS_LATER if answered_before else _HOPELESS_ALONE
        self._one_at_a_time = asyncio.Lock()
        self._isolated = 0
        self._failed = 0

    async def wait_for_turn(self, proven: Callable[[], bool] | None = None) -> asyncio.Lock | None:
        """Wait until a chunk may be split. Returns the lock to release when done, or None where none is needed.

        None is needed once ``proven``: other requests succeed (without it: anything has succeeded).
        """
        proven = proven or self._something_succeeded
        if proven():
            return None
        await self._one_at_a_time.acquire()
        if not proven():
            return self._one_at_a_time
        self._one_at_a_time.release()
        return None

    def rows_succeeded(self, n_rows: int) -> None:
        """Rows of a chunk that was split have their answers."""
        self._isolated += n_rows

    def row_failed(self) -> None:
        """A single row that was isolated has failed."""
        self._isolated += 1
        self._failed += 1

    def is_known_bad(self, work: ChunkTask) -> bool:
        """True for a single row that failed alone in an earlier run."""
        if work.n > 1 or not self._failed_alone:
            return False
        row = work.chunk.start + int(work.positions()[0])
        return self._failed_alone.gap(row, row + 1) is None

    @property
    def useful(self) -> bool:
        """False once isolating rows has turned out to save too few of them."""
        return self._isolated < _ENOUGH_ISOLATED or 2 * self._failed <= self._isolated

    @property
    def hopeless(self) -> bool:
        """True when single rows fail and nothing has ever succeeded: the request itself must be wrong."""
        return self._failed >= self._hopeless and not self._something_succeeded()
