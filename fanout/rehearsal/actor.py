"""Who plays the endpoint: a tape that answers every request in the wire format of its codec."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from multidict import CIMultiDict

from fanout.errors import ConfigError
from fanout.rehearsal.faults import endured
from fanout.serving.exchange import Request, ServerResponse
from fanout.serving.faults.chance import FaultSampler
from fanout.serving.faults.names import probabilities
from fanout.serving.models import Model
from fanout.serving.protocol import answer
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.codecs.base import Codec
    from fanout.tape import Send, Sent

_ORIGIN = "http://mock.invalid"
_NAME = "mock"


class Rehearsal:
    """Answers in the endpoint's place, by a function. Opens no connection.

    What a request of the codec says is understood by the codec's own `serve`, else by the packaged model server, which
    speaks what the packaged codecs do.

    Args:
        codec: of the client that is answered.
        url: the client's URL.
        model: rows -> array, or output name -> array.
        latency: seconds that every answer takes.
        faults: probabilities by fault; `fanout.testing.FAULTS` names them.
        seed: another one brings other faults.

    Raises:
        ConfigError: a fault that there is not.
    """

    replaces = True

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
        self._dice = FaultSampler(probabilities(faults or {}), seed)
        name = codec.options.get("model") or _NAME
        self._model = Model(name=name, function=model, embed=model)
        self._path = codec.path.replace("{model}", quote(name, safe=":.")) or "/"
        self._metadata = self._paths_beside(url)

    async def exchange(self, sent: Sent, send: Send, hide: Callable[[bytes], bytes]) -> Response:
        """What the endpoint might say. Raises `TransportError` by a fault, `ConfigError` for an unknown format."""
        path = self._metadata.get(urlsplit(sent.url).path, self._path) if sent.method == "GET" else self._path
        request = Request(method=sent.method, path=path, headers=sent.headers, body=sent.joined())
        await asyncio.sleep(self._latency)
        made = self._answer(sent, request)
        fault = self._dice.throw(request.body) if sent.method == "POST" else None
        if fault is not None:
            made = await endured(fault, request, made, lambda spoiled: self._answer(sent, spoiled))
        return Response(status=made.status, headers=CIMultiDict(made.headers), body=made.body, url=sent.url)

    def __repr__(self) -> str:
        return f"<Rehearsal {self._codec.name!r}>"

    def _answer(self, sent: Sent, request: Request) -> ServerResponse:
        served = self._codec.serve(sent, self._function)
        if served is not None:
            return ServerResponse(status=served.status, headers=served.headers, body=served.body)
        made = answer(self._model, request)
        if made.status in (404, 405) and sent.method == "POST":
            raise ConfigError(
                f"codec {self._codec.name!r} has the path {self._codec.path!r}, at which the packaged server is not: "
                "give the codec a method serve(request, model), as docs/testing.md shows",
                key="codec.name",
            )
        return made

    def _paths_beside(self, url: str) -> dict[str, str]:
        """Where the packaged server has the pages that the codec asks about: path of the URL -> path."""
        asked = [urlsplit(page).path for page in self._codec.metadata_requests(url)]
        there = [urlsplit(page).path for page in self._codec.metadata_requests(_ORIGIN + self._path)]
        return dict(zip(asked, there, strict=False))
