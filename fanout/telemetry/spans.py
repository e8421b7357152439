"""The spans of runs and chunks, and the parts that wrap a client's transport and attempts.

A run is a span in the trace of its caller. A chunk is a span from its first attempt until all of its rows have an
outcome; its failed attempts are events of it. The requests of its attempts are spans below (`TracedTransport`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import INVALID_SPAN, Link, SpanKind, Status, StatusCode, set_span_in_context

from fanout._escape import shortened
from fanout.telemetry.gen_ai import GenAI
from fanout.telemetry.requests import ATTEMPT, AttemptState, TracedTransport
from fanout.types import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span, SpanContext, Tracer

    from fanout._redact import Redactor
    from fanout.codecs.base import Codec
    from fanout.engine.attempt import Attempter, Outcome
    from fanout.engine.run import Run
    from fanout.engine.task import ChunkTask
    from fanout.telemetry.gen_ai import Operation
    from fanout.transport import Transport
    from fanout.types import Chunk, ChunkResult
    from fanout.upstream.admission import Ticket

_log = logging.getLogger("fanout")

_MOST_LINKS = 100
_LONGEST_REASON = 200
_NOTHING = context.Context()
_NO_USAGE: Mapping[str, int] = {}


class SpanTracing:
    """Makes the spans of clients. The arguments are those of `OpenTelemetry`, and the instruments it has made."""

    def __init__(
        self,
        tracer: Tracer,
        meter: Meter,
        duration: Histogram,
        *,
        propagate: bool,
        baggage: bool,
        chunk_traces: bool,
        gen_ai: str | None,
    ) -> None:
        self.tracer = tracer
        self.chunk_traces = chunk_traces
        self.gen_ai = None if gen_ai is None else GenAI(gen_ai, meter)
        self._duration = duration
        self._inject = (_inject_all if baggage else _inject_trace) if propagate else None
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
        inject = self._inject if propagates else None
        return TracedTransport(
            transport, self.tracer, self._duration, url, redactor,
            inject=inject, is_own=is_own, on_failure=self.on_failure,
        )  # fmt: skip

    def on_failure(self, error: Exception) -> None:
        """Log the first error of the SDK. Telemetry never harms a run."""
        if not self._has_failed:
            self._has_failed = True
            _log.warning("OpenTelemetry raised %s: spans or metrics are missing", type(error).__name__)


class ChunkSpan:
    """One chunk under way: its span, and its attempts."""

    __slots__ = ("active", "began", "chunk", "context", "failed", "last", "span", "usage")

    def __init__(self, chunk: Chunk, span: Span, within: Context, began: float) -> None:
        self.chunk = chunk
        self.span = span
        self.context = within
        self.began = began
        self.active = 0
        """Attempts in flight."""

        self.last: AttemptState | None = None
        """The newest attempt."""

        self.failed: list[tuple[int, int, SpanContext]] = []
        """First and last row of each failed attempt, and its request."""

        self.usage: Mapping[str, int] = _NO_USAGE

    def attempt(self, task: ChunkTask) -> AttemptState:
        """Return the state of the next attempt."""
        before, self.last = self.last, AttemptState()
        if task.sent or task.place is not None:
            self.last = self._later_attempt(task, before)
        return self.last

    def _later_attempt(self, task: ChunkTask, before: AttemptState | None) -> AttemptState:
        first, last = _ends(task)
        earlier = next((one for start, stop, one in reversed(self.failed) if start <= last and first <= stop), None)
        if earlier is None and task.sent and before is not None:
            earlier = before.first
        attributes = {"fanout.rows.first": first, "fanout.rows.count": task.n}
        if task.attempts:
            attributes["http.request.resend_count"] = task.attempts
        return AttemptState([] if earlier is None else [Link(earlier)], attributes)

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
        self._codec = codec
        self._conceal = conceal
        self._callers = callers
        self._operation: Operation | None = None if tracing.gen_ai is None else tracing.gen_ai.operation(codec)
        self._now = asyncio.get_running_loop().time
        self._span: Span = INVALID_SPAN
        self._context = _NOTHING
        self._chunks: dict[int, ChunkSpan] = {}
        """Those under way, by their first row."""

    def attempter(self, attempter: Attempter) -> TracedAttempter:
        """Return an attempter that traces the attempts of ``attempter``."""
        return TracedAttempter(attempter, self)

    def delivering(self, deliver: Callable[[ChunkResult], None]) -> Callable[[ChunkResult], None]:
        """Return a function that ends the span of each chunk, and calls ``deliver``."""

        def traced(done: ChunkResult) -> None:
            deliver(done)
            chunk = self._chunks.get(done.start) or self._around(done)
            # The rest of a chunk in parts may still be in flight.
            if chunk is not None and not chunk.active:
                self._end_chunk(chunk, done)

        return traced

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """Enclose the run in a span, which is the current one meanwhile."""
        token = None
        try:
            self._begin(run)
            token = context.attach(self._context)
        except Exception as error:  # noqa: BLE001 - an SDK may be of any kind, and the run is worth more
            self._tracing.on_failure(error)
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
                self._tracing.on_failure(error)

    def chunk(self, task: ChunkTask) -> ChunkSpan:
        """Return the span of a task's chunk, begun if this is its first attempt."""
        chunk = self._chunks.get(task.chunk.start)
        if chunk is None:
            self._chunks[task.chunk.start] = chunk = self._begin_chunk(task)
        return chunk

    def note_failure(self, chunk: ChunkSpan, task: ChunkTask, verdict: Verdict, state: AttemptState) -> None:
        """Note a failed attempt."""
        if state.first is not None:
            chunk.failed.append((*_ends(task), state.first))
        if chunk.span.is_recording():
            values: dict[str, Any] = {
                "fanout.action": verdict.action.value,
                "fanout.reason": self._shown(verdict.reason),
            }
            if verdict.status is not None:
                values["http.response.status_code"] = verdict.status
            chunk.span.add_event("fanout.attempt.failed", values)

    def on_failure(self, error: Exception) -> None:
        """Take an error of the SDK."""
        self._tracing.on_failure(error)

    def _begin(self, run: Run) -> None:
        parent, links = _caller_and_links(self._callers)
        name, kind = "fanout.run" if self._callers is None else "fanout.batch", SpanKind.INTERNAL
        attributes: dict[str, Any] = {"fanout.codec": self._codec.name}
        if run.chunker.total is not None:
            attributes["fanout.rows.total"] = run.chunker.total
        if self._callers is not None and self._operation is not None:
            name, kind = self._operation.name, SpanKind.CLIENT
            attributes |= self._operation.attributes
        self._span = self._tracing.tracer.start_span(name, parent, kind, attributes, links)
        self._context = set_span_in_context(self._span, parent)

    def _end(self, run: Run, failure: BaseException | None) -> None:
        for chunk in list(self._chunks.values()):
            self._end_chunk(chunk, None)
        span, stopped = self._span, run.stopped
        if span.is_recording():
            counters = run.up_to_date_counters()
            span.set_attributes({
                "fanout.rows.ok": counters.ok, "fanout.rows.failed": counters.failed,
                "fanout.rows.reused": counters.cached + counters.shared,
                "fanout.requests": counters.traffic.requests, "fanout.retries": counters.retries,
                "fanout.splits": counters.splits, "fanout.hedges": counters.hedges,
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
            return ChunkSpan(chunk, self._span, self._context, self._now())
        name, kind = "fanout.chunk", SpanKind.INTERNAL
        attributes: dict[str, Any] = {"fanout.rows.start": chunk.start, "fanout.rows.stop": chunk.stop}
        if self._operation is not None:
            name, kind = self._operation.name, SpanKind.CLIENT
            attributes |= self._operation.attributes
        parent, links = self._context, None
        if self._tracing.chunk_traces:
            parent, links = _NOTHING, [Link(self._span.get_span_context())]
        span = self._tracing.tracer.start_span(name, parent, kind, attributes, links)
        return ChunkSpan(chunk, span, set_span_in_context(span, parent), self._now())

    def _around(self, done: ChunkResult) -> ChunkSpan | None:
        """The chunk that a part of it belongs to. A chunk comes in parts where rows wait for equal ones elsewhere."""
        return next((one for start, one in self._chunks.items() if start < done.start < one.chunk.stop), None)

    def _end_chunk(self, chunk: ChunkSpan, done: ChunkResult | None) -> None:
        """End the span of a chunk. ``done`` is None for one that the run has left behind."""
        del self._chunks[chunk.chunk.start]
        try:
            span, error = chunk.span, None
            # Rows may also leave a batch, to be sent again in smaller ones.
            if (done is None and self._callers is None) or (done is not None and done.pending):
                error = "pending"
            elif done is not None and done.failures:
                error = str(done.failures[0].status or "failed")
            if error is not None and span.is_recording():
                self._describe(span, error, done)
            if self._operation is not None and self._tracing.gen_ai is not None:
                seconds = self._now() - chunk.began
                self._tracing.gen_ai.record(self._operation, span, chunk.usage, seconds, error)
            if span is not self._span:
                span.end()
        except Exception as problem:  # noqa: BLE001 - as above
            self._tracing.on_failure(problem)

    def _describe(self, span: Span, error: str, done: ChunkResult | None) -> None:
        span.set_attribute("error.type", error)
        failures = () if done is None else done.failures
        if failures:
            span.set_attribute("fanout.rows.failed", sum(one.stop - one.start for one in failures))
        span.set_status(Status(StatusCode.ERROR, self._shown(failures[0].reason) if failures else None))

    def _shown(self, reason: str) -> str:
        return self._conceal(shortened(reason, 2 * _LONGEST_REASON))[:_LONGEST_REASON]


class TracedAttempter:
    """Makes attempts by another attempter, each within the span of its chunk."""

    def __init__(self, attempter: Attempter, spans: RunSpans) -> None:
        self._run = attempter.run
        self._spans = spans
        self.ticket = attempter.ticket
        self.misfit = attempter.misfit

    async def run(self, task: ChunkTask, ticket: Ticket) -> Outcome:
        """Make an attempt. A control request, which has rows of no run, is traced as a request of the run alone."""
        if task.is_control:
            return await self._run(task, ticket)
        spans = self._spans
        try:
            chunk = spans.chunk(task)
            state = chunk.attempt(task)
            token = context.attach(chunk.context)
        except Exception as error:  # noqa: BLE001 - as above
            spans.on_failure(error)
            return await self._run(task, ticket)
        ATTEMPT.set(state)
        chunk.active += 1
        try:
            outcome = await self._run(task, ticket)
        finally:
            ATTEMPT.set(None)
            context.detach(token)
            chunk.active -= 1
        if isinstance(outcome, Verdict):
            try:
                spans.note_failure(chunk, task, outcome, state)
            except Exception as error:  # noqa: BLE001 - as above
                spans.on_failure(error)
        elif task.usage:
            chunk.add_usage(task.usage)
        return outcome


def _ends(task: ChunkTask) -> tuple[int, int]:
    """The first and the last row of a task."""
    positions = task.positions()
    return task.chunk.start + int(positions[0]), task.chunk.start + int(positions[-1])


def _caller_and_links(callers: Sequence[Context] | None) -> tuple[Context, list[Link] | None]:
    """The context of a run, and its links to the other callers of a batch."""
    if callers is None:
        return context.get_current(), None
    found = [(within, trace.get_current_span(within).get_span_context()) for within in callers]
    traced = [(within, one) for within, one in found if one.is_valid]
    if not traced:
        return _NOTHING, None
    # A batch with one caller who is sampled must not be lost to the sampler.
    parent, own = next((pair for pair in traced if pair[1].trace_flags.sampled), traced[0])
    # One caller may wait for several rows.
    others = {(one.trace_id, one.span_id): one for _, one in traced if one.span_id != own.span_id}
    return parent, [Link(one) for one in list(others.values())[:_MOST_LINKS]]


def _inject_trace(fields: dict[str, str], span_alone: Context) -> None:
    propagate.inject(fields, span_alone)


def _inject_all(fields: dict[str, str], span_alone: Context) -> None:
    propagate.inject(fields, set_span_in_context(trace.get_current_span(span_alone)))
