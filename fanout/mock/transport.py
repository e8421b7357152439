"""The mock transport: a transport that answers every request by a function, in the wire format of its codec."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from multidict import CIMultiDict

from fanout.errors import ConfigError
from fanout.mock.faults import endured
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse
from fanout.serving.faults.chance import FaultSampler
from fanout.serving.faults.names import probabilities
from fanout.serving.models import Model
from fanout.serving.protocol import answer
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.codecs.base import Codec
    from fanout.transport import Request

_ORIGIN = "http://mock.invalid"
_NAME = "mock"


@checks_options
class MockTransport:
    """Answers in the endpoint's place, in the wire format of a codec: ``Client(..., transport=MockTransport(...))``.

    Opens no connection. A request is answered by the codec's own `serve`, else by the packaged model server, which
    speaks the formats of the packaged codecs.

    Args:
        codec: the codec of the client that is answered.
        url: the URL of the client.
        model: rows -> array, or output name -> array.
        latency: seconds that every response takes.
        faults: probabilities by fault; `fanout.testing.FAULTS` names them.
        seed: another one brings other faults.

    Raises:
        ConfigError: an unknown fault, or a probability that is none.
    """

    def __init__(
        self,
        codec: Codec,
        url: str,
        model: Callable[[Any], Any],
        *,
        latency: float = 0.0,
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._codec = codec
        self._function = model
        self._latency = latency
        self._sampler = FaultSampler(probabilities(faults or {}), seed)
        name = codec.options.get("model") or _NAME
        self._model = Model(name=name, function=model, embed=model)
        self._path = codec.path.replace("{model}", quote(name, safe=":.")) or "/"
        self._metadata = self._metadata_paths(url)

    async def send(self, request: Request) -> Response:
        """The response of an endpoint. Raises `TransportError` by a fault, `ConfigError` for an unknown format."""
        path = self._metadata.get(urlsplit(request.url).path, self._path) if request.method == "GET" else self._path
        received = ServerRequest(method=request.method, path=path, headers=request.headers, body=request.joined())
        await asyncio.sleep(self._latency)
        answered = self._answer(request, received)
        fault = self._sampler.throw(received.body) if request.method == "POST" else None
        if fault is not None:
            answered = await endured(fault, received, answered, lambda other: self._answer(request, other))
        return Response(
            status=answered.status, headers=CIMultiDict(answered.headers), body=answered.body, url=request.url
        )

    def __repr__(self) -> str:
        return f"<MockTransport {self._codec.name!r}>"

    def _answer(self, request: Request, received: ServerRequest) -> ServerResponse:
        served = self._codec.serve(request, self._function)
        if served is not None:
            return ServerResponse(status=served.status, headers=served.headers, body=served.body)
        answered = answer(self._model, received)
        if answered.status in (404, 405) and request.method == "POST":
            raise ConfigError(
                f"codec {self._codec.name!r} has the path {self._codec.path!r}, at which the packaged server is not: "
                "give the codec a method serve(request, model), as docs/testing.md shows",
                key="codec.name",
            )
        return answered

    def _metadata_paths(self, url: str) -> dict[str, str]:
        """The paths of the packaged server's metadata, by the paths at which the codec asks for them."""
        asked = [urlsplit(page).path for page in self._codec.metadata_requests(url)]
        there = [urlsplit(page).path for page in self._codec.metadata_requests(_ORIGIN + self._path)]
        return dict(zip(asked, there, strict=False))
