"""The model server without the server: `answer` turns one request into one answer, for every protocol spoken here.

`ServedModel` calls it for one server, and counts the requests. Both are without sockets and aiohttp, so that the fakes
of an endpoint share them with the packaged server.

KServe's V1 protocol, which is TensorFlow Serving's row format, is here as well:
https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/
https://www.tensorflow.org/tfx/serving/api_rest#predict_api
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fanout.serving import oip
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer, openai_error, plain_error
from fanout.serving.models import call, jsonable, require_finite, require_model, rows_of
from fanout.serving.openai import chat, embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from fanout.serving.models import Model

__all__ = ["ServedModel", "ServerRequest", "ServerResponse", "StatusError", "answer"]


class ServedModel:
    """A model as one server answers with it, and the counts of its POST requests.

    Args:
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


def _predict(model: Model, request: ServerRequest, *, name: str) -> ServerResponse:
    """``POST /v1/models/{name}:predict``: ``{"instances": [...]}`` -> ``{"predictions": [...]}``, one a row."""
    require_model(model, name)
    body = request.json()
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise StatusError(400, f'expected {{"instances": [...]}} with one entry a row, not {_shape(body)}')
    return json_answer({"predictions": _predictions(model, instances)}, rows=len(instances))


def _predict_bare(model: Model, request: ServerRequest) -> ServerResponse:
    """``POST /``: as `_predict`, or a bare JSON list of rows, which is answered by a bare list."""
    body = request.json()
    if isinstance(body, list):
        return json_answer(_predictions(model, body), rows=len(body))
    if isinstance(body, dict) and isinstance(body.get("instances"), list):
        return _predict(model, request, name=model.name)
    raise StatusError(400, f'expected {{"instances": [...]}} or a JSON list, with one entry a row, not {_shape(body)}')


def _predictions(model: Model, instances: list[Any]) -> Any:
    outputs = call(model, rows_of(instances), len(instances))
    require_finite(model, outputs)
    columns = [jsonable(column) for column in outputs.values()]
    # TensorFlow Serving: a single output stands alone, several make an object a row.
    if len(columns) == 1:
        return columns[0]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _shape(body: Any) -> str:
    if not isinstance(body, dict):
        return f"a JSON {_JSON_NAMES[type(body)]}"
    if "instances" in body:
        return f'"instances" of type {_JSON_NAMES[type(body["instances"])]}'
    return f"an object with the keys {sorted(body)}"


_JSON_NAMES = {
    dict: "object",
    list: "list",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def _routes() -> list[_Route]:
    versioned = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
    table: list[tuple[str, str, Callable[..., ServerResponse]]] = [
        ("GET", r"/healthz", lambda model, _: json_answer({"status": "ok", "model": model.name})),
        ("POST", r"/", _predict_bare),
        ("POST", r"/v1/models/(?P<name>[^/]+):predict", _predict),
        ("GET", r"/v1/models/(?P<name>[^/]+)", oip.ready),
        ("GET", r"/v2", oip.server),
        ("GET", r"/v2/health/(?:ready|live)", lambda *_: json_answer({})),
        ("GET", versioned, oip.metadata),
        ("GET", versioned + "/ready", oip.ready),
        ("GET", versioned + "/config", oip.config),
        ("POST", versioned + "/infer", oip.infer),
    ]
    routes = [_Route(method, re.compile(pattern), handler, plain_error) for method, pattern, handler in table]
    of_openai = [(r"/v1/embeddings", embeddings), (r"/v1/chat/completions", chat)]
    return [*routes, *(_Route("POST", re.compile(path), handler, openai_error) for path, handler in of_openai)]


_ROUTES = _routes()
