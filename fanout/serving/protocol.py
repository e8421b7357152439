"""The model server without the server: `answer` turns one request into one answer, for every protocol spoken here.

Pure but for the call of the model's function: no sockets, no event loop, no aiohttp. ``fanout.testing`` uses it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from fanout.serving import oip, v1
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer, openai_error, plain_error
from fanout.serving.openai import chat, embeddings

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.serving.models import Model

__all__ = ["ServerRequest", "ServerResponse", "StatusError", "answer"]


def answer(model: Model, request: ServerRequest) -> ServerResponse:
    """The response of a server of ``model``. It raises for no request and no exception of the function."""
    path = unquote(request.path.partition("?")[0]).rstrip("/") or "/"
    matches = [(route, match) for route in _ROUTES if (match := route.pattern.fullmatch(path))]
    for route, match in matches:
        if route.method == request.method:
            try:
                return route.handler(model, request, **match.groupdict())
            except StatusError as error:
                return route.error(error)
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
