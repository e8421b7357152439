"""A span for each HTTP request, the context of its trace in the request's header, and the attempts around it.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from multidict import CIMultiDict
from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

from fanout._headers import require_header_name
from fanout._url import USUAL_PORTS
from fanout.stop import ATTEMPT_TIMEOUT
from fanout.telemetry.metrics import label
from fanout.transport.base import Request, SendAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span, SpanContext, Tracer

    from fanout._redact import Redactor
    from fanout.engine.attempt import Attempter, Outcome
    from fanout.engine.chunker import ChunkTask
    from fanout.telemetry.spans import ChunkSpan, RunSpans
    from fanout.transport import Transport
    from fanout.types import Response
    from fanout.upstream.admission import Ticket

    Inject = Callable[[dict[str, str], Context], None]

_KNOWN = frozenset(map(int, HTTPStatus))
_NOTHING = Context()
_FAILED = Status(StatusCode.ERROR)


class AttemptState:
    """The requests of the attempt under way, of which there may be several: hedges, resends, polls."""

    # Defaults of the class: every attempt makes an object, and few need more.
    links: Sequence[Link] = ()
    """The request of the attempt before."""

    attributes: Mapping[str, int] | None = None
    """Attributes of its requests, if another attempt was before."""

    first: SpanContext | None = None
    """The first request of this attempt."""


ATTEMPT: ContextVar[AttemptState | None] = ContextVar("fanout_attempt", default=None)


class Propagation:
    """Adds the context of a span to the header of its request.

    Args:
        inject: writes the context of a span into a mapping.
        is_own: the transport knows ``Request.own_fields``; any other gets them among its ``headers``.
    """

    def __init__(self, inject: Inject, *, is_own: bool) -> None:
        self._inject = inject
        self._is_own = is_own
        self._headers: Mapping[str, str] = {}
        """Those of the last request; most requests share one object."""

        self._names: frozenset[str] = frozenset()
        """Names of fields of propagators that are valid, and not in these headers."""

    def with_context(self, request: Request, span: Span) -> Request:
        """Return ``request`` with the context of ``span``. Raises `ConfigError` for a name that no field can have."""
        fields: dict[str, str] = {}
        self._inject(fields, set_span_in_context(span, _NOTHING))
        lines = ""
        if request.headers is not self._headers:
            self._headers, self._names = request.headers, frozenset()
        for name, value in fields.items():
            # A propagator may be the user's own, and the state of a trace another server's text: none may break a head.
            if not (value.isascii() and value.isprintable()):
                return request
            if name not in self._names and not self._is_free(name):
                headers = CIMultiDict(request.headers)
                headers.update(fields)
                return replace(request, headers=headers)
            lines = f"{lines}{name}: {value}\r\n"
        # Each request is made for one exchange, and a copy would cost as much as all of this.
        request.own_fields = lines
        return request

    def _is_free(self, name: str) -> bool:
        """True if requests have no field of this name yet. Raises `ConfigError` for a name that none can have."""
        require_header_name(name, "propagate")
        if not self._is_own or name in self._headers:
            return False
        self._names |= {name}
        return True


class TracedTransport:
    """Sends requests through another transport, with a span for each.

    Args:
        url: the one that most requests go to.
        propagation: adds the context of a span to its request; None adds none.
        on_failure: takes an error of the SDK, which never harms a request.
    """

    def __init__(
        self,
        transport: Transport,
        tracer: Tracer,
        duration: Histogram,
        url: str,
        redactor: Redactor,
        *,
        propagation: Propagation | None,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._send = transport.send
        self._tracer = tracer
        self._duration = duration
        self._redactor = redactor
        self._propagation = propagation
        self._on_failure = on_failure
        self._now = asyncio.get_running_loop().time
        self._url = url
        self._attributes = self._attributes_of("POST", url)
        self._by_outcome: dict[tuple[str, str, object], dict[str, Any]] = {}
        self._usual_outcome = self._outcome(self._attributes, 200, None)

    async def send(self, request: Request) -> Response:
        """Send ``request``. Raises as the transport does."""
        span = None
        try:
            span, attributes = self._begin(request)
            if self._propagation is not None:
                request = self._propagation.with_context(request, span)
        except Exception as error:  # noqa: BLE001 - an SDK may be of any kind, and the request is worth more
            self._on_failure(error)
        began = self._now()
        try:
            response = await self._send(request)
        except BaseException as error:
            if span is not None:
                self._end(span, attributes, began, None, _type_of(error))
            raise
        if span is not None:
            self._end(span, attributes, began, response.status, None)
        return response

    def __repr__(self) -> str:
        return f"<TracedTransport to {self._attributes['url.full']}>"

    def _begin(self, request: Request) -> tuple[Span, dict[str, Any]]:
        # Nearly all requests have one URL, whose attributes are made once.
        is_usual = request.url == self._url and request.method == "POST"
        described = attributes = self._attributes if is_usual else self._attributes_of(request.method, request.url)
        # The context variable, and no argument: the engine between attempter and transport does not know of spans.
        attempt, links = ATTEMPT.get(), None
        if attempt is not None:
            links = attempt.links
            if attempt.attributes is not None:
                described = {**attributes, **attempt.attributes}
            # A hedge, a resend or a poll of the same attempt: its first request is the reason for it.
            if attempt.first is not None:
                links = [Link(attempt.first)]
        span = self._tracer.start_span(request.method, None, SpanKind.CLIENT, described, links)
        if attempt is not None and attempt.first is None:
            attempt.first = span.get_span_context()
        return span, attributes

    def _end(self, span: Span, attributes: dict[str, Any], began: float, status: int | None, error: str | None) -> None:
        try:
            if span.is_recording():
                if status is not None:
                    span.set_attribute("http.response.status_code", status)
                if error is not None or (status is not None and status >= 400):
                    span.set_attribute("error.type", error or str(status))
                    span.set_status(_FAILED)
            span.end()
            # Nothing was sent, so there is no duration that an endpoint could answer for.
            if error is not SendAborted.__name__:
                usual = status == 200 and attributes is self._attributes
                outcome = self._usual_outcome if usual else self._outcome(attributes, status, error)
                self._duration.record(self._now() - began, outcome, set_span_in_context(span, _NOTHING))
        except Exception as problem:  # noqa: BLE001 - as above
            self._on_failure(problem)

    def _outcome(self, attributes: dict[str, Any], status: int | None, error: str | None) -> dict[str, Any]:
        """The attributes of the metric, of which there are few: an unknown status counts as the first of its class."""
        if status is not None and status not in _KNOWN:
            status = status // 100 * 100
        # Each request records an outcome, and there are few different ones: their attributes are made once.
        key = attributes["http.request.method"], attributes["server.address"], status or error
        if (known := self._by_outcome.get(key)) is None:
            known = {name: value for name, value in attributes.items() if name != "url.full"}
            if status is not None:
                known["http.response.status_code"] = status
            if error is not None or (status or 0) >= 400:
                known["error.type"] = error or str(status)
            self._by_outcome[key] = known
        return known

    def _attributes_of(self, method: str, url: str) -> dict[str, Any]:
        parts = urlsplit(url)
        return {
            "http.request.method": method,
            "server.address": label(parts.hostname or ""),
            "server.port": parts.port or USUAL_PORTS.get(parts.scheme, 0),
            "url.full": label(self._redactor.url(url)),
            "url.scheme": parts.scheme,
        }


class AttempterInContext:
    """Makes attempts by another attempter, within the context of their run.

    A worker may be started by another run, when that one raises the limit of requests in flight.
    """

    def __init__(self, attempter: Attempter, within: Context) -> None:
        self._ticket = attempter.ticket
        self._context = within
        self.run = attempter.run
        self.misfit = attempter.misfit

    def ticket(self) -> Ticket:
        """Make a ticket for a worker, whose context is that of the run from now on."""
        ATTEMPT.set(None)
        context.attach(self._context)
        return self._ticket()


class TracedAttempter:
    """Makes attempts by another attempter, each within the span of its chunk."""

    def __init__(self, attempter: Attempter, spans: RunSpans) -> None:
        self._run = attempter.run
        self._spans = spans
        self.ticket = attempter.ticket
        self.misfit = attempter.misfit

    def run(self, task: ChunkTask, ticket: Ticket) -> Coroutine[Any, Any, Outcome]:
        """Make an attempt. A control request, which has rows of no run, is traced as a request of the run alone."""
        # A coroutine of its own would cost each attempt more than all of this. The context of a worker need not be
        # restored, since it makes nothing but attempts.
        spans = self._spans
        try:
            if task.is_control:
                ATTEMPT.set(None)
                context.attach(spans.context)
            else:
                chunk = spans.chunk(task)
                # Hardly an attempt comes after another, or is for some of the rows.
                ATTEMPT.set(chunk.later_attempt(task) if task.sent or task.place is not None else chunk)
                context.attach(chunk.context)
                if spans.operation is not None:
                    return self._run_measured(task, ticket, chunk)
        except Exception as error:  # noqa: BLE001 - as above
            spans.on_failure(error)
        return self._run(task, ticket)

    async def _run_measured(self, task: ChunkTask, ticket: Ticket, chunk: ChunkSpan) -> Outcome:
        """Make an attempt at a language model, and add the tokens that it used."""
        outcome = await self._run(task, ticket)
        if task.usage:
            chunk.add_usage(task.usage)
        return outcome


def _type_of(error: BaseException) -> str:
    """The type of an error, of which there are few."""
    if isinstance(error, SendAborted):
        return SendAborted.__name__
    if isinstance(error, asyncio.CancelledError):
        return "timeout" if error.args == (ATTEMPT_TIMEOUT,) else "cancelled"
    return type(error).__name__ if type(error).__module__ == "fanout.errors" else "exception"
