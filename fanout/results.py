"""Outcomes that users see: events and failures of rows, counters, and the result of a chunk and of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fanout import frames
from fanout.usage import TokenCounts, token_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.types import Array, Chunk, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Rows without an answer, and the reason."""

    start: int
    stop: int
    reason: str
    status: int | None
    attempts: int
    endpoint: str
    ids: tuple[Any, ...] = ()
    """Ids of these rows, if the input has ids."""

    @property
    def n_rows(self) -> int:
        """Number of the rows."""
        return self.stop - self.start

    def __str__(self) -> str:
        rows = f"row {self.start}" if self.n_rows == 1 else f"rows {self.start}:{self.stop}"
        return f"{rows}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change in the state of a run, for progress displays, metrics and logs. It holds no secret and no data."""

    kind: Literal[
        "done", "failed", "retry", "split", "pause", "stop", "limit", "opened", "ejected", "restored", "excluded"
    ]
    """``"opened"``: the circuit to an endpoint opened. The last three concern one of several endpoints: it gets no
    requests for a while, it answers again, or it gets no more requests for the rest of the client's life."""

    start: int = 0
    stop: int = 0
    """The rows concerned: ``start <= row < stop``."""

    attempt: int = 0
    status: int | None = None
    reason: str = ""
    seconds: float = 0.0
    """Length of a pause that the endpoint asked for."""

    concurrency: int = 0
    """The new limit of requests in flight, for ``"limit"``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatistics:
    """A snapshot of one endpoint: its requests since the client was opened, and its state."""

    url: str
    """URL without secrets."""

    requests: int
    in_flight: int
    latency: float | None
    """Seconds: a moving average of the last responses, quick to rise and slow to fall. None before the first response,
    and if the client has no other endpoint to compare with."""

    state: Literal["in use", "ejected", "excluded"]
    """``"ejected"``: it gets no requests for a while, after failures. ``"excluded"``: it gets none at all, because it
    refuses every request, serves another model, or has not reported its model yet."""

    reason: str = ""
    """Reason for an exclusion, if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A snapshot of the counters of one run, or of a client since it was opened. Times are in seconds."""

    rows: int = 0
    """Rows taken from the input so far."""

    ok: int = 0
    failed: int = 0
    requests: int = 0
    """HTTP requests sent, metadata requests included."""

    retries: int = 0
    """Further requests for the same rows; splits are not counted."""

    cached: int = 0
    """Rows answered from the cache, without a request."""

    shared: int = 0
    """Rows that shared the request of an equal row; see ``dedupe``."""

    splits: int = 0
    """Chunks cut in two to isolate a bad row, or to find a size that the server accepts."""

    hedges: int = 0
    """Second requests for rows whose first response took long; also counted in ``requests``."""

    hedges_won: int = 0
    """Hedges whose response came before the first request's."""

    in_flight: int = 0
    max_in_flight: int = 0
    concurrency: int | None = None
    """Current limit of requests in flight under ``concurrency="auto"``; None for a fixed limit."""

    backing_off: int = 0
    """Chunks that wait for their next attempt."""

    # Bodies alone: aiohttp's session does not show the heads that it sends.
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    writing_seconds: float = 0.0
    """Time after the last response in which the output was ordered and published."""

    latency_p50: float = float("nan")
    """Duration of one HTTP exchange, whatever its outcome, within 3 %; NaN before the first one."""

    latency_p95: float = float("nan")
    latency_p99: float = float("nan")
    endpoints: tuple[EndpointStatistics, ...] = ()
    """One for each endpoint, in the order in which they were given."""

    usage: Mapping[str, int] = field(default_factory=dict)
    """Units that the API counted (``"prompt_tokens"``, ...), summed over all responses that could be read.

    Invalid responses are included, because they are billed too. The usage of a response that never arrived is unknown.
    """

    cost: float | None = None
    """Cost at the prices that were given, in ``currency``. Requests whose usage is unknown, such as those that timed
    out, are counted by their estimate. None without prices, without any usage, or if a token has no price."""

    cost_estimated: float | None = None
    """Part of ``cost`` that is estimated; None without prices."""

    cost_per_row: float | None = None
    """Mean cost of a row, over the requests whose usage is known; None without any."""

    cost_per_row_error: float | None = None
    """Twice the standard error of ``cost_per_row``; None before the third request."""

    currency: str | None = None
    """Currency of the prices; None without prices."""

    @property
    def tokens(self) -> TokenCounts:
        """Input, cached, output and reasoning tokens in ``usage``, whatever the API calls them."""
        return token_counts(self.usage)

    @property
    def rows_per_second(self) -> float:
        """Answered rows a second; 0 before any time has passed."""
        # Answered rows only: an endpoint that fails every row at once would otherwise look fast.
        return self.ok / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True, kw_only=True)
class ChunkResult:
    """The outcome of one chunk: each of its rows is answered, failed, or pending after a stop."""

    start: int
    stop: int
    outputs: Values | None
    """Output name -> array of stop - start rows; None if no row of the chunk succeeded."""

    failures: tuple[Failure, ...] = ()
    pending: tuple[Chunk, ...] = ()
    """Rows without an answer because the run stopped in the middle of this chunk."""

    ids: Sequence[Any] | None = None
    """Ids of these rows, if the input has ids."""

    cached: Array | None = None
    """Mask of the rows whose answers came from the cache; None if none did."""

    usage: Array | None = None
    """Input, cached, output and reasoning tokens of each row, shape (stop - start, 4), float64: the row's share of
    those of its request, NaN where they are unknown. None unless `Client.run` keeps them."""

    @property
    def values(self) -> Any:
        """The array, or a dict of arrays for a codec with several outputs; None if no row succeeded.

        Rows without an answer hold NaN, 0, False or ``""``.
        """
        return unwrapped(self.outputs)

    @property
    def ok(self) -> Array:
        """Mask of the answered rows; shape (stop - start,), bool."""
        # Most chunks have no failure, so the mask is made only when it is asked for.
        mask = np.ones(self.stop - self.start, bool)
        absent: list[Failure | Chunk] = [*self.failures, *self.pending]
        for rows in absent:
            mask[rows.start - self.start : rows.stop - self.start] = False
        return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a run. Row i of ``values`` belongs to input row i; only ``ok`` says if that row has an answer."""

    outputs: Values | None
    """Output name -> array of shape (rows, ...); None if no row succeeded, or if a sink took the values."""

    ok: Array
    """Mask of the answered rows; shape (rows,), bool."""

    failures: tuple[Failure, ...]
    """Sorted by row."""

    pending: tuple[Chunk, ...]
    """Rows without an answer because the run stopped; sorted."""

    stats: Statistics

    cached: Array | None = None
    """Mask of the rows whose answers came from the cache; shape (rows,), bool. None if none did, or if a sink took the
    values."""

    @property
    def values(self) -> Any:
        """The array, or a dict of arrays for a codec with several outputs; None if no row succeeded.

        Failed and pending rows hold NaN, 0, False or ``""``.
        """
        return unwrapped(self.outputs)

    def to_arrow(self) -> Any:
        """Return an Arrow table with the columns ``index``, one for each output (``value`` without a name), ``ok`` and
        ``reason``. Rows without an answer are null. Raises `ConfigError` without pyarrow.
        """
        columns = frames.result_columns(self)
        # Between the index and the two columns that say why a row has no value stand the outputs, which may be null.
        return frames.to_arrow(columns, self.ok, [*columns][1:-2])

    def to_pandas(self) -> Any:
        """Return the same as a `pandas.DataFrame`: integers and bools with missing rows are nullable. Rows of a shape
        are arrays. Raises `ConfigError` without pandas.
        """
        columns = frames.result_columns(self)
        return frames.to_pandas(columns, self.ok, [*columns][1:-2])

    def to_polars(self) -> Any:
        """Return the same as a `polars.DataFrame`. Raises `ConfigError` without polars and pyarrow."""
        return frames.to_polars(self.to_arrow())

    def _repr_html_(self) -> str:
        return frames.result_html(self)

    def __repr__(self) -> str:
        ok, pending = int(self.ok.sum()), sum(len(chunk) for chunk in self.pending)
        return f"<Result rows={len(self.ok)} ok={ok} failed={len(self.ok) - ok - pending} pending={pending}>"


# The names of outputs are the codec's, so that all calls of a client return the same type.
def unwrapped(outputs: Values | None) -> Any:
    """Return the array of a mapping with one entry, else the mapping as a dict; None for None."""
    if outputs is None:
        return None
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
