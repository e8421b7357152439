"""Compares the chunks of a run with the learnt limits on the size of a request, and cuts them to these."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import ceil, inf
from typing import TYPE_CHECKING

import numpy as np

from fanout.limits.size_limits import Size

if TYPE_CHECKING:
    from fanout.engine.chunk_bounds import ChunkBounds
    from fanout.engine.chunker import ChunkTask
    from fanout.types import Rows, Verdict
    from fanout.upstream.group import EndpointGroup

_log = logging.getLogger("fanout")


class RequestSizes:
    """The sizes of one run's requests, reported to the `SizeLimits` of its endpoints."""

    def __init__(self, bounds: ChunkBounds, group: EndpointGroup) -> None:
        self._bounds = bounds
        self._sizes = bounds.sizes = group.answered.sizes
        self._meter = group.costs.meter
        self._advised = False

    def suspected(self, task: ChunkTask) -> None:
        """Watch the sizes of requests from now on: a chunk failed that may have been too large."""
        self._sizes.suspected(self._of(task), task.chunk)

    def succeeded(self, task: ChunkTask) -> None:
        """Count the size of an answered request."""
        if self._sizes.watching:
            self._sizes.succeeded(self._of(task), task.chunk)

    def too_large(self, task: ChunkTask, verdict: Verdict) -> None:
        """Count a request that failed with ``verdict``, although its rows are answered in smaller ones."""
        size = self._of(task)
        if size.n_bytes and self._bounds.spare_packing is not None:
            # The packing has to know bytes before it cuts by them, and the chunk was not packed until now.
            self._bounds.spare_packing.weigh(task)
        self._sizes.too_large(size, task.chunk)
        limits = self._sizes.limits
        if verdict.error_kind == "rows" and limits is not None and limits.rows == 1 and not self._advised:
            self._advised = True
            _log.warning(
                "the endpoint does not answer every row of a request that has several, so each row is sent alone; "
                "set chunks.rows = 1 (in Python chunk_rows=1) to do so from the beginning"
            )

    @property
    def largest_seen(self) -> int | None:
        """Most rows in a request that was answered of late."""
        return self._sizes.largest_seen

    def ended(self, task: ChunkTask) -> None:
        """Stop waiting for the outcome of a chunk that had failed."""
        self._sizes.ended(task.chunk)

    def beyond(self, task: ChunkTask) -> bool:
        """True if a request failed that is larger than is safe."""
        return self._sizes.exceeded_by(self._of(task))

    def near_limit(self, task: ChunkTask) -> bool:
        """True if a chunk that fails again and again may fail for its size."""
        return self._sizes.near(self._of(task))

    def knows(self, task: ChunkTask) -> bool:
        """True if it is clear whether the size of a chunk that failed is to blame."""
        size = self._of(task)
        return self._sizes.exceeded_by(size) or self._sizes.carried(size)

    def clears(self, task: ChunkTask) -> bool:
        """True if chunks of as many rows as ``task`` need not be held back: some succeed, or the limits are known."""
        return self._sizes.limits is not None or (self._sizes.largest_seen or 0) >= task.n

    def parts(self, task: ChunkTask) -> list[ChunkTask]:
        """Cut a task into tasks within the limits. Empty if it has one row, or is within them already."""
        limits, packing = self._sizes.safe(), self._bounds.spare_packing
        if limits is None or task.n == 1:
            return []
        if packing is not None and min(limits.n_bytes, limits.tokens) < inf:
            # Bounds in bytes or tokens: rows differ, so that equal numbers of rows would not do.
            counts = packing.parts(task.rows, limits)
        else:
            # The parts may have a little more than is known to be safe, so that there are fewer of them.
            n_parts = ceil(task.n / (limits.rows if limits.rows == inf else self._sizes.rows_hoped_for))
            counts = [(task.n + part) // n_parts for part in range(n_parts)]
        return task.parts(counts) if len(counts) > 1 else []

    def _of(self, task: ChunkTask) -> Size:
        # Of rows that are all alike, bytes say no more than their number, and rows are the simpler limit.
        n_bytes = 0.0 if task.payload is None or _alike(task.rows) else float(task.payload.nbytes)
        tokens = self._meter.of_request(task.rows, 0) if self._meter.counts else 0.0
        return Size(float(task.n), n_bytes, float(tokens))


def _alike(rows: Rows) -> bool:
    """True for numbers in arrays, whose rows are all of one size."""
    arrays = rows.values() if isinstance(rows, Mapping) else (rows,)
    return all(isinstance(array, np.ndarray) and array.dtype.kind in "biufc" for array in arrays)
