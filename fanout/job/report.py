"""Reports on a job: of a run, a check, a dry run and a status. ``as_dict`` is the form that ``--json`` prints."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.client import Preview, Survey
    from fanout.errors import RunStopped
    from fanout.job.exchange import Exchange
    from fanout.results import Failure, Result, Statistics
    from fanout.settings import Limits
    from fanout.types import StopKind

AnsweredBy: TypeAlias = Literal["endpoint", "mock", "replay"]
"""Origin of the answers: the endpoint, a mock of the model, or a recording."""

# Raised when a key of the JSON output changes its meaning or goes, so that scripts notice.
SCHEMA_VERSION = 1

COST_KEYS = ("cost", "cost_estimated", "cost_per_row", "cost_per_row_error", "currency")
"""Fields of `Statistics` about money, which are keys of the JSON output."""


class CostEstimate(NamedTuple):
    """The expected cost of a run in which every first attempt succeeds."""

    cost: float | None
    """None if it depends on answers of unknown length."""

    error: float | None
    """The cost is most likely within this distance of the estimate; None if that is unknown."""

    currency: str


class StopCause(NamedTuple):
    """Reason of an early stop, for programs and for people."""

    kind: StopKind
    reason: str

    @classmethod
    def of(cls, stop: RunStopped | None) -> StopCause | None:
        """Return the cause of a `RunStopped`; None for None."""
        return None if stop is None else cls(stop.kind, stop.reason)


class OutputFiles(NamedTuple):
    """Files that a run has written."""

    outputs: tuple[str, ...]
    """Answers; empty if no row has one."""

    mask: str | None
    """Mask of the answered rows; None if all rows have an answer, or none has."""

    failures: str | None
    """Reasons of the failed rows; None if no row failed."""

    report: str | None = None
    """Report of the run; None if the job wants none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome of `run_job`: rows = ok + failed + pending."""

    answers: AnsweredBy = "endpoint"
    rows: int
    ok: int
    pending: int
    """Rows without an answer because the run stopped."""

    earlier: int
    """Rows that an earlier run had finished."""

    earlier_cost: float | None = None
    """Cost of earlier processes of the run; None if it is unknown, and without prices."""

    reading_seconds: float
    """Time before the first request, in which the input was read and compared with that of an earlier run."""

    stats: Statistics
    files: OutputFiles
    first_failures: tuple[Failure, ...] = ()
    stop: StopCause | None = None
    resumable: bool
    """Running the job again continues this run."""

    not_uploaded: str | None = None
    """URL of an output that is complete in its local files, and that the next run will upload; None for none."""

    rewritten: bool = False
    """The run was complete, and its output was written again with other columns."""

    exit_code: int

    @property
    def failed(self) -> int:
        return self.rows - self.ok - self.pending

    @property
    def seconds(self) -> float:
        """Time of reading, sending and writing together."""
        return self.reading_seconds + self.stats.seconds + self.stats.writing_seconds

    def as_dict(self) -> dict[str, Any]:
        # The JSON stays flat, so that scripts read one level: jq .ok.
        stats = asdict(self.stats)
        # These have one name in the statistics and in the JSON; the others differ, or would hold NaN.
        counted = (
            "cached", "shared", "requests", "retries", "splits", "hedges", "hedges_won", "concurrency",
            "writing_seconds", "endpoints", "usage", *COST_KEYS,
        )  # fmt: skip
        return {
            "schema_version": SCHEMA_VERSION,
            **_named(self, "answers", "rows", "ok", "failed", "pending", "earlier", "seconds", "reading_seconds"),
            "sending_seconds": self.stats.seconds,
            "rows_per_second": self.stats.rows_per_second,
            **{name: stats[name] for name in counted},
            # NaN is no JSON, and a script would stumble over it only after a run without an answer.
            **{name: known(stats[name]) for name in ("latency_p50", "latency_p95", "latency_p99")},
            "tokens": self.stats.tokens._asdict(),
            "cost_earlier": self.earlier_cost,
            **self.files._asdict(),
            "first_failures": [asdict(failure) for failure in self.first_failures],
            **stop_keys(self.stop),
            **_named(self, "resumable", "not_uploaded", "rewritten", "exit_code"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySchema:
    """Name, dtype and shape of an array."""

    name: str
    """Empty for the only array."""

    dtype: str
    shape: tuple[int, ...]


class Probe(NamedTuple):
    """The first request of a job, and its answer."""

    result: Result
    answer: tuple[ArraySchema, ...]
    """Arrays in the answer."""

    exchange: Exchange | None = None
    """Both as they were sent, if the check was to show them."""

    paths: Mapping[str, str] = {}
    """Output name to its path in the answer, where the codec has paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The outcome of `check_job`."""

    rows: int | None
    """None if only reading to the end shows it."""

    input: tuple[ArraySchema, ...]
    endpoint: str
    """URL without credentials."""

    codec: str
    preview: Preview | None
    """None if there are no rows, or the endpoint stopped the check before."""

    chunk_rows: int
    """Rows in one request: the job's, cut to the model's maximum."""

    chunks: int | None
    """Requests for the whole input if every first attempt succeeds; None if that depends on the rows."""

    output: str
    probe: Probe
    stop: StopCause | None = None
    estimated_rows: int | None = None
    """As many as the size of the input suggests, where ``rows`` is not known."""

    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        preview, result = self.preview, self.probe.result
        return {
            "schema_version": SCHEMA_VERSION,
            **_named(self, "rows", "estimated_rows", "endpoint", "codec", "chunk_rows", "chunks", "output"),
            "input": [asdict(array) for array in self.input],
            "model": asdict(preview.model) if preview and preview.model else None,
            **{name: preview and getattr(preview, name) for name in ("max_rows", "body_bytes")},
            "sends": [asdict(tensor) for tensor in preview.tensors] if preview else [],
            "probed": len(result.ok),
            "ok": int(result.ok.sum()),
            "failed": count_failed(result),
            "answer": [asdict(array) for array in self.probe.answer],
            **_named(result.stats, "requests", "seconds", *COST_KEYS),
            "latency": known(result.stats.latency_p50),
            "tokens": result.stats.tokens._asdict(),
            # A check sends one chunk, so there are few of them.
            "failures": [asdict(failure) for failure in result.failures],
            "exchange": self.probe.exchange and self.probe.exchange.as_dict(),
            **stop_keys(self.stop),
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The outcome of `dry_run`. It assumes that every first attempt succeeds."""

    endpoint: str
    """URL without credentials."""

    codec: str
    survey: Survey
    limits: Limits
    latency: float
    """Assumed duration of one exchange in seconds."""

    seconds: float
    """Duration of the whole run at that latency and the job's limits, without encoding and decoding."""

    output: str
    cost: CostEstimate | None = None
    """None without prices."""

    exit_code: int = 0

    @property
    def requests(self) -> int:
        """All requests: those with rows, and those for the model's metadata."""
        return self.survey.chunks + self.survey.metadata_requests

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            **_named(
                self.survey, "rows", "unsendable", "cached", "shared", "chunk_rows", "chunks", "metadata_requests"
            ),
            **_named(self, "requests", "endpoint", "codec", "latency", "seconds", "output", "exit_code"),
            "body_bytes": self.survey.body_bytes,
            # The limits stand beside the estimate, so that a script can compare the two.
            **_named(self.limits, "max_requests", "concurrency", "rates", "max_cost"),
            "cost": self.cost and self.cost.cost,
            "cost_error": self.cost and self.cost.error,
            "currency": self.cost and self.cost.currency,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The progress of a job's newest run, from its journal."""

    schema_version: int = SCHEMA_VERSION
    journal: str
    begun: bool
    """At least one row is finished."""

    complete: bool
    """The run has finished, and the output is in place."""

    rows: int | None
    """Rows of the whole input; None if unknown before its end."""

    ok: int
    failed: int
    pending: int | None
    current: bool | None
    """The job's input, codec and URL are still those of the run; None if they were not compared."""

    not_compared: str = ""
    """Reason why they were not compared."""

    cost: float | None = None
    """Cost of the run so far; None if it is unknown, and without prices."""

    uploaded: bool | None = None
    """The output of a complete run is in its object store; None for a local output."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _named(source: object, *names: str) -> dict[str, Any]:
    """Return attributes by their names."""
    return {name: getattr(source, name) for name in names}


def exit_code(failed: int, stop: RunStopped | StopCause | None) -> int:
    """Return 0 if every row is done, 1 if some failed, 3 after an early stop, 130 after an interrupt."""
    # A stop counts before failed rows: a resumed run may answer rows that are pending, and its report is not final.
    if stop is not None:
        # Shells report a process that Ctrl-C ended as 128 + SIGINT.
        return 130 if stop.kind == "interrupted" else 3
    return 1 if failed else 0


def count_failed(result: Result) -> int:
    return sum(failure.n_rows for failure in result.failures)


def known(seconds: float) -> float | None:
    """Return ``seconds``; None for NaN, which JSON cannot express."""
    return None if math.isnan(seconds) else seconds


def stop_keys(stop: StopCause | None) -> dict[str, Any]:
    """Return the keys of the JSON output about a stop."""
    return {"stop_kind": stop.kind if stop else None, "stop_reason": stop.reason if stop else None}
