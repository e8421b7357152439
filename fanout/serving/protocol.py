"""The model server without the server: `answer` turns one request into one answer, for every protocol spoken here.

`ServedModel` calls it for one server, and counts the requests. Both are without sockets and aiohttp, so that the fakes
of an endpoint share them with the packaged server.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fanout.serving import oip, v1
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer, openai_error, plain_error
from fanout.serving.openai import chat, embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from fanout.serving.models import Model

__all__ = ["ServedModel", "ServerRequest", "ServerResponse", "StatusError", "answer"]


class ServedModel:
    """A model as one server answers with it, and the counts of its POST requests.

    Args:
        model: the model.
        latency: seconds that every response takes, or a function that gives them for each request number.
        worker: calls the model, so that a slow one does not block the server; by default the event loop calls it.
    """

    def __init__(
        self, model: Model, *, latency: float | Callable[[int], float] = 0.0, worker: Executor | None = None
    ) -> None:
        self.model = model
        self.received = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.rows = 0
        """Rows that the model has answered."""

        self._latency = latency if callable(latency) else lambda _: latency
        self._worker = worker

    def statistics(self) -> dict[str, Any]:
        """The counts that ``GET /stats`` gives."""
        names = ("in_flight", "max_in_flight", "rows")
        return {"requests": self.received, **{name: getattr(self, name) for name in names}}

    async def respond(self, request: ServerRequest) -> ServerResponse:
        """Count a request, and give the response to it after the latency."""
        if request.method != "POST":
            return await self.answer(request)
        with self.counted(request) as latency:
            await asyncio.sleep(latency)
            return await self.answer(request)

    async def answer(self, request: ServerRequest) -> ServerResponse:
        """The response to a request."""
        if (request.method, request.path) == ("GET", "/stats"):
            return json_answer(self.statistics())
        if self._worker is None or request.method != "POST":  # the health is asked for while the worker is busy
            response = answer(self.model, request)
        else:
            response = await asyncio.get_running_loop().run_in_executor(self._worker, answer, self.model, request)
        self.rows += response.rows
        return response

    @contextmanager
    def counted(self, request: ServerRequest) -> Iterator[float]:
        """Count a POST request as in flight. Gives the seconds that its response takes."""
        # The number of this request, before it is counted: a function of the latency counts from 0.
        number = self.received
        self.received += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            yield self._latency(number)
        finally:
            self.in_flight -= 1


def answer(model: Model, request: ServerRequest) -> ServerResponse:
    """The response of a server of ``model``. It raises for no request and no exception of the function."""
    path = unquote(request.path.partition("?")[0]).rstrip("/") or "/"
    # All matches, because a path that exists for another method gets a 405.
    matches = [(route, match) for route in _ROUTES if (match := route.pattern.fullmatch(path))]
    for route, match in matches:
        if route.method == request.method:
            try:
                return route.handler(model, request, **match.groupdict())
            except StatusError as error:
                return route.error(error)
            # The code that walks through a document calls itself for each level of it.
            except RecursionError:
                return route.error(StatusError(400, "the body is nested too deeply"))
    if matches:
        return plain_error(StatusError(405, f"{path} takes {matches[0][0].method}, not {request.method}"))
    return plain_error(
        StatusError(404, f"nothing is at {path}: see /v1, /v2, /v1/embeddings, /v1/chat/completions or POST /")
    )


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    pattern: re.Pattern[str]
    handler: Callable[..., ServerResponse]
    error: Callable[[StatusError], ServerResponse]


def _healthz(model: Model, request: ServerRequest) -> ServerResponse:
    return json_answer({"status": "ok", "model": model.name})


def _routes() -> list[_Route]:
    versioned = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
    table: list[tuple[str, str, Callable[..., ServerResponse]]] = [
        ("GET", r"/healthz", _healthz),
        ("POST", r"/", v1.predict_bare),
        ("POST", r"/v1/models/(?P<name>[^/]+):predict", v1.predict),
        ("GET", r"/v1/models/(?P<name>[^/]+)", v1.ready),
        ("GET", r"/v2", oip.server),
        ("GET", r"/v2/health/(?:ready|live)", oip.health),
        ("GET", versioned, oip.metadata),
        ("GET", versioned + "/ready", oip.ready),
        ("GET", versioned + "/config", oip.config),
        ("POST", versioned + "/infer", oip.infer),
    ]
    routes = [_Route(method, re.compile(pattern), handler, plain_error) for method, pattern, handler in table]
    of_openai = [(r"/v1/embeddings", embeddings), (r"/v1/chat/completions", chat)]
    return [*routes, *(_Route("POST", re.compile(path), handler, openai_error) for path, handler in of_openai)]


_ROUTES = _routes()
