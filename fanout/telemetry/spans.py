"""The spans of runs and chunks, and the parts that wrap a client's transport and attempts.

A run is a span in the trace of its caller. A chunk is a span from its first attempt until all of its rows have an
outcome; its failed attempts are events of it. The requests of its attempts are spans below (`TracedTransport`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry import context, trace
from opentelemetry.propagate import inject
from opentelemetry.trace import INVALID_SPAN, Link, SpanKind, Status, StatusCode, set_span_in_context

from fanout._escape import shortened
from fanout.telemetry.metrics import GenAI
from fanout.telemetry.requests import (
    ATTEMPT,
    AttempterInContext,
    AttemptState,
    Propagation,
    TracedAttempter,
    TracedTransport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span, SpanContext, Tracer

    from fanout._redact import Redactor
    from fanout.codecs.base import Codec
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.run import Run
    from fanout.results import ChunkResult
    from fanout.telemetry.metrics import Operation
    from fanout.transport import Transport
    from fanout.types import Chunk, Verdict

    Handle: TypeAlias = Callable[[ChunkTask, Verdict, float | None], None]

_log = logging.getLogger("fanout")

# The SDK keeps at most 128 links of a span, and drops those beyond.
_MOST_LINKS = 100
_LONGEST_REASON = 200
_NOTHING = context.Context()


class SpanTracing:
    """Makes the spans of clients. The arguments are those of `OpenTelemetry`, and its instruments."""

    def __init__(
        self,
        tracer: Tracer,
        meter: Meter,
        duration: Histogram,
        *,
        propagates: bool,
        baggage: bool,
        chunk_traces: bool,
        gen_ai: str | None,
    ) -> None:
        self.tracer = tracer
        self.chunk_traces = chunk_traces
        self.gen_ai = None if gen_ai is None else GenAI(gen_ai, meter)
        self._duration = duration
        self._inject = (_inject_all if baggage else inject) if propagates else None
        self._has_failed = False

    def run(self, codec: Codec, conceal: Callable[[str], str], callers: Sequence[Any] | None) -> RunSpans:
        """Begin to trace a run."""
        return RunSpans(self, codec, conceal, callers)

    def caller(self) -> Context:
        """Return the context of the current caller."""
        return context.get_current()

    def transport(
        self, transport: Transport, url: str, redactor: Redactor, *, is_own: bool = True, propagates: bool = True
    ) -> Transport:
        """Return a transport that makes a span of each request."""
        propagation = Propagation(self._inject, is_own=is_own) if propagates and self._inject is not None else None
        return TracedTransport(
            transport, self.tracer, self._duration, url, redactor, propagation=propagation, on_failure=self.on_failure
        )

    def on_failure(self, error: Exception) -> None:
        """Log the first error of the SDK. Telemetry never harms a run."""
        if not self._has_failed:
            self._has_failed = True
            _log.warning("OpenTelemetry raised %s: spans or metrics are missing", type(error).__name__)


class ChunkSpan(AttemptState):
    """One chunk under way: its span, its attempts, and the state of the first of them."""

    failed: tuple[tuple[int, int, SpanContext], ...] = ()
    """First and last row of each failed attempt, and its request."""

    usage: Mapping[str, int] = MappingProxyType({})
    began = 0.0
    """Time of the loop, where the duration of chunks is measured."""

    def __init__(self, chunk: Chunk, span: Span, within: Context) -> None:
        self.chunk = chunk
        self.span = span
        self.context = within
        self.left = chunk.stop - chunk.start
        """Rows without an outcome."""

    def later_attempt(self, task: ChunkTask) -> AttemptState:
        """Return the state of an attempt after the first, or of an attempt for some of the rows."""
        # The newest failure that shares a row with this attempt is the one that it repeats.
        first, last = _ends(task)
        earlier = next((one for start, stop, one in reversed(self.failed) if start <= last and first <= stop), None)
        if earlier is None and task.sent:  # its answer was refused later, for it was unlike the others
            earlier = self.first
        # It may be an attempt for some of the rows only, which the chunk's span does not show.
        attributes = {"fanout.rows.first": first, "fanout.rows.count": task.n}
        if task.attempts:
            attributes["http.request.resend_count"] = task.attempts
        attempt = AttemptState()
        attempt.attributes = attributes
        attempt.links = [] if earlier is None else [Link(earlier)]
        return attempt

    def add_usage(self, usage: Mapping[str, int]) -> None:
        """Add the usage of a response; that of a chunk in parts has several."""
        total = dict(self.usage)
        for name, n in usage.items():
            total[name] = total.get(name, 0) + n
        self.usage = total


class RunSpans:
    """The spans of one run."""

    def __init__(
        self, tracing: SpanTracing, codec: Codec, conceal: Callable[[str], str], callers: Sequence[Context] | None
    ) -> None:
        self._tracing = tracing
        self.on_failure = tracing.on_failure
        self._codec = codec
        self._conceal = conceal
        self._callers = callers
        self.operation: Operation | None = None if tracing.gen_ai is None else tracing.gen_ai.operation(codec)
        self._now = asyncio.get_running_loop().time
        self._span: Span = INVALID_SPAN
        self.context = _NOTHING
        self._chunks: dict[int, ChunkSpan] = {}
        """Those under way, by their first row."""

    def attempter(self, attempter: Any) -> Any:
        """Return an attempter that traces the attempts of ``attempter``."""
        # The chunks of a run that is not sampled are not either, unless each of them is a trace of its own.
        if self._span.is_recording() or self._tracing.chunk_traces or self.operation is not None:
            return TracedAttempter(attempter, self)
        return AttempterInContext(attempter, self.context)

    def delivering(self, deliver: Callable[[ChunkResult], None]) -> Callable[[ChunkResult], None]:
        """Return a function that ends the span of each chunk, and calls ``deliver``."""
        chunks = self._chunks

        def traced(done: ChunkResult) -> None:
            # Delivered first: the rows are done whatever becomes of their span.
            deliver(done)
            if chunks:
                # A chunk comes in parts where rows wait for equal ones elsewhere.
                chunk = chunks.get(done.start) or next(
                    (one for start, one in chunks.items() if start < done.start < one.chunk.stop), None
                )
                if chunk is not None:
                    chunk.left -= done.stop - done.start
                    if chunk.left <= 0:
                        self._end_chunk(chunk, done)

        return traced

    def handling(self, handle: Handle) -> Handle:
        """Return a function that notes a failed attempt, and calls ``handle``."""

        def traced(task: ChunkTask, verdict: Verdict, sent_at: float | None) -> None:
            chunk = self._chunks.get(task.chunk.start)
            # A control request sends a row again that was answered: its failure is none of that chunk.
            if chunk is not None and not task.is_control:
                self._note_failure(chunk, task, verdict)
            handle(task, verdict, sent_at)

        return traced

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """Enclose the run in a span, which is the current one meanwhile."""
        token = None
        try:
            self._begin(run)
            token = context.attach(self.context)
        except Exception as error:  # noqa: BLE001 - an SDK may be of any kind, and the run is worth more
            self.on_failure(error)
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            if token is not None:
                context.detach(token)
            try:
                self._end(run, failure)
            except Exception as error:  # noqa: BLE001 - as above
                self.on_failure(error)

    def chunk(self, task: ChunkTask) -> ChunkSpan:
        """Return the span of a task's chunk, begun if this is its first attempt."""
        start = task.chunk.start
        chunk = self._chunks.get(start)
        if chunk is None:
            self._chunks[start] = chunk = self._begin_chunk(task)
            if self.operation is not None:
                chunk.began = self._now()
        return chunk

    def _note_failure(self, chunk: ChunkSpan, task: ChunkTask, verdict: Verdict) -> None:
        state = ATTEMPT.get()
        if state is not None and state.first is not None:
            chunk.failed += ((*_ends(task), state.first),)
        values: dict[str, Any] = {"fanout.action": verdict.action.value}
        values["fanout.reason"] = self._shown(verdict.reason)
        if verdict.status is not None:
            values["http.response.status_code"] = verdict.status
        try:
            chunk.span.add_event("fanout.attempt.failed", values)
        except Exception as error:  # noqa: BLE001 - as above
            self.on_failure(error)

    def _begin(self, run: Run) -> None:
        parent, links = _caller_and_links(self._callers)
        name, kind = "fanout.run" if self._callers is None else "fanout.batch", SpanKind.INTERNAL
        attributes: dict[str, Any] = {"fanout.codec": self._codec.name}
        if run.chunker.total is not None:
            attributes["fanout.rows.total"] = run.chunker.total
        if self._callers is not None and self.operation is not None:
            name, kind = self.operation.name, SpanKind.CLIENT
            attributes |= self.operation.attributes
        self._span = self._tracing.tracer.start_span(name, parent, kind, attributes, links)
        self.context = set_span_in_context(self._span, parent)

    def _end(self, run: Run, failure: BaseException | None) -> None:
        span, stopped = self._span, run.stopped
        # Chunks that a stop left in flight still have open spans, and an exporter never sees a span that is not ended.
        for chunk in list(self._chunks.values()):
            self._end_chunk(chunk, None, is_left=stopped is not None or failure is not None)
        if span.is_recording():
            counters = run.up_to_date_counters()
            span.set_attributes({
                "fanout.rows.ok": counters.ok, "fanout.rows.failed": counters.failed,
                "fanout.rows.reused": counters.cached + counters.shared,
                "fanout.requests": counters.traffic.requests, "fanout.retries": counters.retries,
                "fanout.splits": counters.splits, "fanout.hedges": counters.traffic.hedges,
            })  # fmt: skip
            if stopped is not None:
                span.set_attribute("error.type", stopped.kind)
                span.set_status(Status(StatusCode.ERROR, self._shown(stopped.reason)))
            elif failure is not None:
                span.set_attribute("error.type", type(failure).__name__)
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _begin_chunk(self, task: ChunkTask) -> ChunkSpan:
        chunk = task.chunk
        if self._callers is not None:  # a batch is one chunk, and has one span
            return ChunkSpan(chunk, self._span, self.context)
        name, kind = "fanout.chunk", SpanKind.INTERNAL
        attributes: dict[str, Any] = {"fanout.rows.start": chunk.start, "fanout.rows.stop": chunk.stop}
        if self.operation is not None:
            name, kind = self.operation.name, SpanKind.CLIENT
            attributes |= self.operation.attributes
        parent, links = self.context, None
        if self._tracing.chunk_traces:
            # Backends bound the size of a trace (Tempo: 5 MB), which a run of many chunks exceeds.
            parent, links = _NOTHING, [Link(self._span.get_span_context())]
        span = self._tracing.tracer.start_span(name, parent, kind, attributes, links)
        return ChunkSpan(chunk, span, set_span_in_context(span, parent))

    def _end_chunk(self, chunk: ChunkSpan, done: ChunkResult | None, *, is_left: bool = False) -> None:
        """End the span of a chunk. ``is_left`` says that the run has ended before its rows had an outcome."""
        del self._chunks[chunk.chunk.start]
        try:
            span, error = chunk.span, None
            if is_left or (done is not None and done.pending):
                error = "pending"
            elif done is not None and done.failures:
                error = str(done.failures[0].status or "failed")
            if error is not None and span.is_recording():
                self._describe(span, error, done)
            if self.operation is not None and self._tracing.gen_ai is not None:
                seconds = self._now() - chunk.began
                self._tracing.gen_ai.record(self.operation, span, chunk.usage, seconds, error)
            # The only chunk of a batch shares the span of the run, which ends that.
            if span is not self._span:
                span.end()
        except Exception as problem:  # noqa: BLE001 - as above
            self.on_failure(problem)

    def _describe(self, span: Span, error: str, done: ChunkResult | None) -> None:
        span.set_attribute("error.type", error)
        failures = () if done is None else done.failures
        if failures:
            span.set_attribute("fanout.rows.failed", sum(one.n_rows for one in failures))
        span.set_status(Status(StatusCode.ERROR, self._shown(failures[0].reason) if failures else None))

    def _shown(self, reason: str) -> str:
        # Cut twice: before, so that a long reason costs little; after, because a secret at the cut has to be seen
        # whole.
        return self._conceal(shortened(reason, 2 * _LONGEST_REASON))[:_LONGEST_REASON]


def _ends(task: ChunkTask) -> tuple[int, int]:
    """The first and the last row of a task."""
    positions = task.positions()
    return task.chunk.start + int(positions[0]), task.chunk.start + int(positions[-1])


def _caller_and_links(callers: Sequence[Context] | None) -> tuple[Context, list[Link] | None]:
    """The context of a run, and its links to the other callers of a batch."""
    if callers is None:
        return context.get_current(), None
    contexts = [(within, trace.get_current_span(within).get_span_context()) for within in callers]
    traced = [(within, one) for within, one in contexts if one.is_valid]
    if not traced:
        return _NOTHING, None
    # A batch with one caller who is sampled must not be lost to the sampler.
    parent, own = next((pair for pair in traced if pair[1].trace_flags.sampled), traced[0])
    # One caller may wait for several rows.
    others = {(one.trace_id, one.span_id): one for _, one in traced if one.span_id != own.span_id}
    return parent, [Link(one) for one in list(others.values())[:_MOST_LINKS]]


def _inject_all(fields: dict[str, str], span_alone: Context) -> None:
    inject(fields, set_span_in_context(trace.get_current_span(span_alone)))
