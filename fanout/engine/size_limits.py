"""Judges the chunks of a run by what is known of the sizes that the endpoint takes, and cuts them to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import ceil, inf
from typing import TYPE_CHECKING

import numpy as np

from fanout.limits.size_limits import Size

if TYPE_CHECKING:
    from fanout.engine.chunker import Chunker
    from fanout.engine.task import ChunkTask
    from fanout.types import Rows, Verdict
    from fanout.upstream.group import EndpointGroup

_log = logging.getLogger("fanout")


class RequestSizes:
    """The sizes of one run's requests, reported to the `SizeLimits` of its link."""

    def __init__(self, chunker: Chunker, group: EndpointGroup) -> None:
        self._chunker = chunker
        self._sizes = chunker.sizes = group.sizes
        self._meter = group.meter
        self._advised = False

    def suspected(self, work: ChunkTask) -> None:
        """A chunk failed that may have been too large: from now on the sizes are looked at."""
        self._sizes.suspected(self._of(work), work.chunk)

    def succeeded(self, work: ChunkTask) -> None:
        """Take note of an answered request."""
        if self._sizes.watching:
            self._sizes.succeeded(self._of(work), work.chunk)

    def too_large(self, work: ChunkTask, verdict: Verdict) -> None:
        """Take note of a request that failed with ``verdict``, although its rows are answered in smaller ones."""
        size = self._of(work)
        if size.n_bytes and self._chunker.spare_packing is not None:
            self._chunker.spare_packing.weigh(work)
        self._sizes.too_large(size, work.chunk)
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

    def ended(self, work: ChunkTask) -> None:
        """All is known of a chunk that had failed."""
        self._sizes.ended(work.chunk)

    def beyond(self, work: ChunkTask) -> bool:
        """True if a request failed that is larger than is safe."""
        return self._sizes.exceeded_by(self._of(work))

    def near_limit(self, work: ChunkTask) -> bool:
        """True if a chunk that fails again and again may fail for its size."""
        return self._sizes.near(self._of(work))

    def knows(self, work: ChunkTask) -> bool:
        """True if it is clear whether the size of a chunk that failed is to blame."""
        size = self._of(work)
        return self._sizes.exceeded_by(size) or self._sizes.carried(size)

    def clears(self, work: ChunkTask) -> bool:
        """True if chunks of as many rows as ``work`` need not be held back: some succeed, or the limits are known."""
        return self._sizes.limits is not None or (self._sizes.largest_seen or 0) >= work.n

    def parts(self, work: ChunkTask) -> list[ChunkTask]:
        """The rows in works within the limits; none where there is one row, or all are within them already."""
        limits, packing = self._sizes.safe(), self._chunker.spare_packing
        if limits is None or work.n == 1:
            return []
        if packing is not None and min(limits.n_bytes, limits.tokens) < inf:
            counts = packing.parts(work.rows, limits)
        else:
            # The parts may have a little more than is known to be safe, so that there are fewer of them.
            n_parts = ceil(work.n / (limits.rows if limits.rows == inf else self._sizes.rows_hoped_for))
            counts = [(work.n + part) // n_parts for part in range(n_parts)]
        return work.parts(counts) if len(counts) > 1 else []

    def _of(self, work: ChunkTask) -> Size:
        n_bytes = 0.0 if work.payload is None or _alike(work.rows) else float(work.payload.nbytes)
        tokens = self._meter.of_request(work.rows, 0) if self._meter.counts else 0.0
        return Size(float(work.n), n_bytes, float(tokens))


def _alike(rows: Rows) -> bool:
    """True for numbers in arrays, whose rows are all of one size."""
    arrays = rows.values() if isinstance(rows, Mapping) else (rows,)
    return all(isinstance(array, np.ndarray) and array.dtype.kind in "biufc" for array in arrays)
