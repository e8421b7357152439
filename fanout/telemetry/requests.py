"""A span for each HTTP request, and the context of its trace in the request's header.

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
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

from fanout.errors import ConfigError
from fanout.settings import require_headers
from fanout.stop import ATTEMPT_TIMEOUT
from fanout.telemetry.metrics import label
from fanout.transport.base import Request, SendAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span, SpanContext, Tracer

    from fanout._redact import Redactor
    from fanout.transport import Transport
    from fanout.types import Response

_KNOWN = frozenset(map(int, HTTPStatus))
_NOTHING = Context()
_NONE: Mapping[str, int] = {}
_FAILED = Status(StatusCode.ERROR)
_PORTS = {"http": 80, "https": 443}


class AttemptState:
    """The requests of the attempt under way, of which there may be several: hedges, resends, polls.

    Args:
        links: the request of the attempt before.
        attributes: of its requests, if another attempt was before.
    """

    __slots__ = ("attributes", "first", "links")

    def __init__(self, links: Sequence[Link] = (), attributes: Mapping[str, int] = _NONE) -> None:
        self.links = links
        self.attributes = attributes
        self.first: SpanContext | None = None
        """The first request of this attempt."""


ATTEMPT: ContextVar[AttemptState | None] = ContextVar("fanout_attempt", default=None)


class TracedTransport:
    """Sends requests through another transport, with a span for each.

    Args:
        url: the one that most requests go to.
        redactor: redacts URLs.
        inject: writes the context of a span into a mapping; None sends none.
        is_own: ``transport`` knows ``Request.own_headers``; any other gets them among its ``headers``.
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
        inject: Callable[[dict[str, str], Context], None] | None,
        is_own: bool,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._send = transport.send
        self._tracer = tracer
        self._duration = duration
        self._redactor = redactor
        self._inject = inject
        self._is_own = is_own
        self._on_failure = on_failure
        self._now = asyncio.get_running_loop().time
        self._url = url
        self._attributes = self._attributes_of("POST", url)
        self._by_outcome: dict[tuple[str, str, object], dict[str, Any]] = {}

    async def send(self, request: Request) -> Response:
        """Send ``request``. Raises as the transport does."""
        span = None
        try:
            span, attributes = self._begin(request)
            if self._inject is not None:
                request = self._with_context(request, span, self._inject)
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
        is_usual = request.url == self._url and request.method == "POST"
        attributes = self._attributes if is_usual else self._attributes_of(request.method, request.url)
        attempt = ATTEMPT.get()
        if attempt is None:
            return self._tracer.start_span(request.method, kind=SpanKind.CLIENT, attributes=attributes), attributes
        if attempt.first is None and not attempt.attributes:
            span = self._tracer.start_span(request.method, kind=SpanKind.CLIENT, attributes=attributes)
        else:
            links = attempt.links if attempt.first is None else [Link(attempt.first)]
            described = {**attributes, **attempt.attributes}
            span = self._tracer.start_span(request.method, kind=SpanKind.CLIENT, attributes=described, links=links)
        if attempt.first is None:
            attempt.first = span.get_span_context()
        return span, attributes

    def _with_context(self, request: Request, span: Span, inject: Callable[[dict[str, str], Context], None]) -> Request:
        fields: dict[str, str] = {}
        inject(fields, set_span_in_context(span, _NOTHING))
        try:
            require_headers(fields)
        except ConfigError:  # a propagator of the user's own; what it wrote must not break the request
            return request
        if not self._is_own:
            return replace(request, headers=CIMultiDict({**request.headers, **fields}))
        return Request(
            request.method, request.url, request.headers, request.body, request.fresh, request.rows, request.redact,
            fields,
        )  # fmt: skip

    def _end(self, span: Span, attributes: dict[str, Any], began: float, status: int | None, error: str | None) -> None:
        try:
            if span.is_recording():
                if status is not None:
                    span.set_attribute("http.response.status_code", status)
                if error is not None or (status is not None and status >= 400):
                    span.set_attribute("error.type", error or str(status))
                    span.set_status(_FAILED)
            span.end()
            if error is not SendAborted.__name__:
                self._duration.record(
                    self._now() - began, self._outcome(attributes, status, error), set_span_in_context(span, _NOTHING)
                )
        except Exception as problem:  # noqa: BLE001 - as above
            self._on_failure(problem)

    def _outcome(self, attributes: dict[str, Any], status: int | None, error: str | None) -> dict[str, Any]:
        """The attributes of the metric, of which there are few: an unknown status counts as the first of its class."""
        if status is not None and status not in _KNOWN:
            status = status // 100 * 100
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
            "server.port": parts.port or _PORTS.get(parts.scheme, 0),
            "url.full": label(self._redactor.url(url)),
            "url.scheme": parts.scheme,
        }


def _type_of(error: BaseException) -> str:
    """The type of an error, of which there are few."""
    if isinstance(error, SendAborted):
        return SendAborted.__name__
    if isinstance(error, asyncio.CancelledError):
        return "timeout" if error.args == (ATTEMPT_TIMEOUT,) else "cancelled"
    return type(error).__name__ if type(error).__module__ == "fanout.errors" else "exception"
