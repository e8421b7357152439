"""The mock transport: a transport that answers every request by a function, in the wire format of its codec."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from multidict import CIMultiDict

from fanout.errors import ConfigError
from fanout.faults.endpoint import FakeEndpoint
from fanout.mock.in_memory import play
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.codecs.base import Codec
    from fanout.transport import Request

_ORIGIN = "http://mock.invalid"
_NAME = "mock"


@checks_options
class MockTransport(FakeEndpoint):
    """Answers in the endpoint's place, in the wire format of a codec: ``Client(..., transport=MockTransport(...))``.

    Opens no connection. The codec's own `serve` answers a request, else the packaged model server, which speaks the
    formats of the packaged codecs.

    Args:
        codec: the codec of the client.
        url: the URL of the client.
        model: rows -> array, or output name -> array.
        latency: seconds that every response takes, or a function that gives them for each request number.
        faults: probabilities by fault; `fanout.testing.FAULTS` names them.
        seed: another one brings other faults.
        record: keep every request in `requests`, with its time in `times`.

    Raises:
        ConfigError: an unknown fault, or a probability that is none.
    """

    offline = True
    """No credentials are obtained for requests to it."""

    def __init__(
        self,
        codec: Codec,
        url: str,
        model: Callable[[Any], Any],
        *,
        latency: float | Callable[[int], float] = 0.0,
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
        record: bool = True,
    ) -> None:
        # A client checks the name of the model in answers, so the mock has to use the one that it is asked for.
        name = codec.options.get("model") or _NAME
        super().__init__(model, name=name, faults=faults, seed=seed, latency=latency, record=record)
        # A function of the request's number counts requests with rows only.
        self._metadata_latency = 0.0 if callable(latency) else latency
        self._codec = codec
        self._path = codec.path.replace("{model}", quote(name, safe=":.")) or "/"
        # The codec asks for metadata beside the client's URL, whose path may differ from the packaged server's.
        asked = [urlsplit(page).path for page in codec.metadata_requests(url)]
        served = [urlsplit(page).path for page in codec.metadata_requests(_ORIGIN + self._path)]
        self._metadata_paths = dict(zip(asked, served, strict=False))

    @property
    def origin(self) -> str:
        """The origin of a URL that no other server has."""
        return _ORIGIN

    async def send(self, request: Request) -> Response:
        """The response of an endpoint. Raises `TransportError` by a fault, `ConfigError` for an unknown format."""
        is_get = request.method == "GET"
        path = self._metadata_paths.get(urlsplit(request.url).path, self._path) if is_get else self._path
        received = ServerRequest(method=request.method, path=path, headers=request.headers, body=request.joined())
        planned = self._plan.scripted(request.method)

        async def correct(asked: ServerRequest) -> ServerResponse:
            # A codec of the user's own knows its wire format; the packaged server does not.
            return self._serve(request) or await self._answer(asked)

        if is_get:
            await asyncio.sleep(self._metadata_latency)
        response = await self._play(received, planned, lambda step: play(step, received, correct))
        return Response(
            status=response.status, headers=CIMultiDict(response.headers), body=response.body, url=request.url
        )

    def __repr__(self) -> str:
        return f"<MockTransport {self._codec.name!r}>"

    def _serve(self, request: Request) -> ServerResponse | None:
        """The codec's own response, if it has one."""
        served = self._codec.serve(request, self.model.function)
        return (
            None if served is None else ServerResponse(status=served.status, headers=served.headers, body=served.body)
        )

    async def _answer(self, received: ServerRequest) -> ServerResponse:
        response = await self.answer(received)
        if response.status in (404, 405) and received.method == "POST":
            raise ConfigError(
                f"codec {self._codec.name!r} has the path {self._codec.path!r}, which the packaged server does not "
                "serve: give the codec a method serve(request, model), as docs/testing.md shows",
                key="codec.name",
            )
        return response
