"""What a job came to."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.errors import RunStopped
    from fanout.io.journal import Journal
    from fanout.io.writers import FileSink
    from fanout.job.offline import Answers
    from fanout.types import EndpointStatistics, Failure, Result, StopKind

SCHEMA_VERSION = 1
_FAILURES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The account of a job that has run: rows = ok + failed + pending."""

    schema_version: int = SCHEMA_VERSION
    answers: Answers = "endpoint"
    """Who gave them: the endpoint, a model that stood in for it (mock), or a recording (replay)."""

    rows: int
    ok: int
    failed: int
    pending: int
    """Rows never answered, because the run was stopped."""

    earlier: int
    """Rows that were done when the run began, by an earlier one."""

    seconds: float
    """Of reading, sending and writing together."""

    reading_seconds: float
    """Seconds before the first request in which the input was read and compared with that of an earlier run."""

    sending_seconds: float
    writing_seconds: float
    """Seconds after the last answer in which the output was put in order and in place."""

    rows_per_second: float
    """While rows were sent."""

    requests: int
    retries: int
    splits: int
    hedges: int
    hedges_won: int
    concurrency: int | None
    """Most requests in flight, as "auto" had it at the end; None where it is fixed."""

    latency_p50: float | None
    """Seconds of one HTTP exchange; None where none was made."""

    latency_p95: float | None
    latency_p99: float | None
    endpoints: tuple[EndpointStatistics, ...] = ()
    """How each endpoint stands at the end."""

    usage: Mapping[str, int] = field(default_factory=dict)
    """What the API has counted (``"total_tokens"``, ...), refused answers included; empty where it does not tell."""

    outputs: tuple[str, ...]
    """Files with the answers; none where no row has one."""

    mask: str | None
    """File that tells which rows have an answer; None where all have, or none has."""

    failures: str | None
    """File that tells why rows failed; None where none did."""

    first_failures: tuple[Failure, ...] = field(default=())
    stop_kind: StopKind | None = None
    """Why the run was stopped early, for machines."""

    stop_reason: str | None = None
    """The same for people."""

    resumable: bool
    """Running the job again goes on where this run was stopped."""

    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON has it."""
        return asdict(self)


def summarized(
    result: Result,
    sink: FileSink,
    journal: Journal,
    stop: RunStopped | None,
    answers: Answers = "endpoint",
    *,
    reading_seconds: float = 0.0,
) -> Summary:
    """The summary of a run that has ended or was stopped."""
    stats = result.stats
    failed = sum(failure.stop - failure.start for failure in result.failures)
    return Summary(
        answers=answers,
        rows=len(result.ok),
        ok=int(result.ok.sum()),
        failed=failed,
        pending=sum(len(chunk) for chunk in result.pending),
        earlier=journal.resumed_rows,
        seconds=reading_seconds + stats.seconds + stats.writing_seconds,
        reading_seconds=reading_seconds,
        sending_seconds=stats.seconds,
        writing_seconds=stats.writing_seconds,
        rows_per_second=stats.rows_per_second,
        requests=stats.requests,
        retries=stats.retries,
        splits=stats.splits,
        hedges=stats.hedges,
        hedges_won=stats.hedges_won,
        concurrency=stats.concurrency,
        latency_p50=_known(stats.latency_p50),
        latency_p95=_known(stats.latency_p95),
        latency_p99=_known(stats.latency_p99),
        endpoints=stats.endpoints,
        usage=stats.usage,
        outputs=tuple(map(str, sink.outputs)),
        mask=str(sink.mask) if sink.mask else None,
        failures=str(sink.failures) if sink.failures else None,
        first_failures=result.failures[:_FAILURES_SHOWN],
        stop_kind=stop.kind if stop else None,
        stop_reason=stop.reason if stop else None,
        resumable=not journal.state.complete,
        exit_code=exit_code(failed, stop),
    )


def exit_code(failed: int, stop: RunStopped | None) -> int:
    """0: every row done; 1: some failed; 3: stopped early; 130: interrupted."""
    if stop is not None:
        return 130 if stop.kind == "interrupted" else 3
    return 1 if failed else 0


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
