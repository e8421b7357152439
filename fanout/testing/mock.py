"""The mock endpoint: a Python function on arrays is the model, in process, with no socket opened.

It speaks every protocol of the local model server, in place of the method by which every session of aiohttp sends. So a
client needs no change to be tested: only the mock's URL.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

import aiohttp
from aiohttp.helpers import TimerNoop
from aiohttp.http import HttpVersion11, RawResponseMessage
from aiohttp.payload import Payload as BodyPayload
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from fanout.errors import ConfigError
from fanout.faults.endpoint import FakeEndpoint, Scripted, checked_step
from fanout.mock import play
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.faults.endpoint import Faults, PlannedStep
    from fanout.serving.models import Model

# A name that never resolves (RFC 6761), so that a request past the mock fails.
_ORIGIN = URL("http://fanout-mock.test")


@checks_options
class MockEndpoint(FakeEndpoint):
    """An endpoint whose model is ``model``. A context manager; inside it, requests to `url` are answered here.

    ::

        with MockEndpoint(lambda x: x * 2) as mock:
            mock.script(503, None)
            async with fanout.Client(mock.url("v1"), codec="v1") as client:
                y = await client.map(X)

    A step is a status, a `Scripted` response, an exception, a fault's name (`FAULTS` lists them), or None: the model
    answers.

    Args:
        model: takes the rows of a request (an array, or a list of texts) and returns an array or a dict of arrays; or a
            whole `fanout.serving.models.Model`, which can describe its inputs and outputs.
        latency: seconds that every response takes, or a function that gives them for each request number; with
            `VirtualClock` they cost nothing.
        faults: probabilities by fault, or a function that gives the step for each request.
        seed: another one brings other faults.
    """

    def __init__(
        self,
        model: Callable[[Any], Any] | Model,
        *,
        latency: float | Callable[[int], float] = 0.0,
        faults: Faults = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, name="mock", faults=faults, seed=seed, latency=latency, check=_checked)

        async def request(session: aiohttp.ClientSession, method: str, url: str | URL, **sent: Any) -> Any:
            if session.closed:
                raise RuntimeError("Session is closed")
            return await self._respond(method, URL(url), sent.get("data"), dict(sent.get("headers") or {}))

        self._patch = patch.object(aiohttp.ClientSession, "_request", request)

    @property
    def origin(self) -> str:
        """The origin to which requests are answered here."""
        return str(_ORIGIN)

    def __enter__(self) -> Self:
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()

    async def _respond(self, method: str, url: URL, data: Any, headers: dict[str, str]) -> aiohttp.ClientResponse:
        if url.origin() != _ORIGIN:
            raise aiohttp.ClientConnectionError(f"Connection refused: {method} {url}")
        # The server's own routes decide about the path, so that an unknown one is a 404 as on a socket.
        body = await data.as_bytes() if isinstance(data, BodyPayload) else bytes(data or b"")
        request = ServerRequest(method=method, path=url.raw_path_qs, headers=headers, body=body).uncompressed()
        # The next step belongs to this request from now on, however long its response takes.
        planned = self._plan.scripted(method)
        served = await self._play(request, planned, lambda step: play(step, request, self.answer))
        return await _response(method, url, headers, served)


def _checked(step: object) -> PlannedStep:
    # A fake without connections can raise an exception in place of a response.
    if isinstance(step, Exception) or (isinstance(step, type) and issubclass(step, Exception)):
        return step
    if isinstance(step, str) and step.isdecimal():
        raise ConfigError(f"a status is a number, not the text {step!r}", key="script")
    # A bare status has no body here, so that a test sees the reason that a client gives without one.
    return checked_step(Scripted(status=step) if isinstance(step, int) and not isinstance(step, bool) else step)


async def _response(method: str, url: URL, headers: dict[str, str], served: ServerResponse) -> aiohttp.ClientResponse:
    """The response that aiohttp gives for the bytes of ``served``."""
    loop = asyncio.get_running_loop()
    response = aiohttp.ClientResponse(
        method,
        url,
        writer=None,
        continue100=None,
        timer=TimerNoop(),
        request_info=aiohttp.RequestInfo(url, method, CIMultiDictProxy(CIMultiDict(headers)), url),
        traces=[],
        loop=loop,
        session=None,  # type: ignore[arg-type]
        stream_writer=_Arrived,  # type: ignore[arg-type]
    )
    return await response.start(_Connection(served, loop))  # type: ignore[arg-type]


class _Arrived:
    """The part of a connection, and of its writer, that a response uses whose bytes have all arrived."""

    output_size = 0
    _reading_paused = False

    def pause_reading(self, **_: Any) -> None:
        return

    def resume_reading(self, **_: Any) -> None:
        return


class _Connection(_Arrived):
    """A connection, and its protocol, from which a response is read as a whole."""

    upgraded = False

    def __init__(self, served: ServerResponse, loop: asyncio.AbstractEventLoop) -> None:
        self._served = served
        # Below its limit a stream never pauses its connection.
        self._content = aiohttp.StreamReader(self, limit=len(served.body), loop=loop)  # type: ignore[arg-type]
        self._content.feed_data(served.body)
        self._content.feed_eof()

    @property
    def protocol(self) -> Self:
        return self

    async def read(self) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        headers = CIMultiDict({"Content-Type": "application/json", "Content-Length": str(len(self._served.body))})
        headers.update(self._served.headers)
        raw = tuple((name.encode(), value.encode()) for name, value in headers.items())
        message = RawResponseMessage(
            HttpVersion11, self._served.status, "", CIMultiDictProxy(headers), raw, False, None, False, False
        )
        return message, self._content

    def release(self) -> None:
        return


class MockedResponse(aiohttp.ClientResponse):
    """The class of responses for aioresponses with aiohttp 3.14 and later: ``mock.post(url, response_class=...)``.

    Up to 0.7.9 aioresponses passes no stream writer to the response, feeds a large body into a stream that then tries
    to pause a connection which does not exist, and invents a loop in debug mode, in which each response records the
    whole stack (aioresponses#289).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"stream_writer": _Arrived} | kwargs | {"loop": asyncio.get_running_loop()}))

    def __setattr__(self, name: str, value: Any) -> None:
        # aioresponses makes the stream itself, and fills it in the next step.
        if name == "content":
            value = aiohttp.StreamReader(_Arrived(), limit=2**16, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        super().__setattr__(name, value)
