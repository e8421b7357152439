"""How a job is to be tuned: bounds, budget, and what to try."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fanout.tune.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How a job is to be tuned."""

    rows: slice = field(default_factory=lambda: slice(0, 2000))
    """The part of the input to send, as a slice without a step."""

    max_p95: float | None = None
    """Seconds; half of the job's ``timeouts.attempt`` if not given."""

    max_errors: float = 0.01
    """See `Bounds.errors`."""

    seconds: float = 2.0
    """How long a trial counts; longer where too little is answered in it, shorter where that is much."""

    budget: Budget = field(default_factory=Budget)
    chunk_rows: Sequence[int] = ()
    """The sizes of a chunk to try; the job's own, doubled and halved, if not given."""

    concurrency: Sequence[int] = ()
    """The requests in flight to try; 1, 2, 4, ... if not given."""
