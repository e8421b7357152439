"""The mock endpoint: a Python function on arrays is the model, in process, with no socket opened.

It speaks every protocol of the local model server, through aioresponses, so a client needs no change to be tested: only
the mock's URL.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp.payload import Payload as BodyPayload
from aioresponses import CallbackResult, aioresponses

from fanout.errors import ConfigError
from fanout.faults.endpoint import FakeEndpoint
from fanout.faults.plan import Scripted, checked_step
from fanout.mock import play
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse, uncompressed

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from fanout.faults.plan import Faults, PlannedStep
    from fanout.serving.models import Model

# A name that never resolves (RFC 6761), so that a request past the mock fails.
_ORIGIN = "http://fanout-mock.test"


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
        self._mock = aioresponses()

    @property
    def origin(self) -> str:
        """The origin to which requests are answered here."""
        return _ORIGIN

    def __enter__(self) -> Self:
        self._mock.start()
        # The server's own routes decide about the path, so that an unknown one is a 404 as on a socket.
        everything = re.compile(re.escape(_ORIGIN) + "(/.*)?$")
        for method in ("GET", "POST"):
            self._mock.add(everything, method=method, callback=self._callback(method), repeat=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._mock.stop()

    def _callback(self, method: str) -> Callable[..., Any]:
        async def callback(url: URL, **sent: Any) -> CallbackResult:
            headers = dict(sent.get("headers") or {})
            body = uncompressed(headers, await _body(sent.get("data")))
            request = ServerRequest(method=method, path=url.raw_path_qs, headers=headers, body=body)
            # The next step belongs to this request from now on, however long its response takes.
            planned = self._plan.scripted(method)
            return _result(await self._play(request, planned, lambda step: play(step, request, self.answer)))

        return callback


def _checked(step: object) -> PlannedStep:
    # A fake without connections can raise an exception in place of a response.
    if isinstance(step, Exception) or (isinstance(step, type) and issubclass(step, Exception)):
        return step
    if isinstance(step, str) and step.isdecimal():
        raise ConfigError(f"a status is a number, not the text {step!r}", key="script")
    # A bare status has no body here, so that a test sees the reason that a client gives without one.
    return checked_step(Scripted(status=step) if isinstance(step, int) and not isinstance(step, bool) else step)


class _BridgedResponse(aiohttp.ClientResponse):
    """A response as aiohttp >= 3.14 needs it, which aioresponses 0.7.9 does not make yet (aioresponses#289).

    aioresponses passes no stream writer, and feeds large bodies into a stream that then tries to pause a connection
    which does not exist. The loop that it invents for responses claims to be in debug mode, so that each response would
    record the whole stack.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"loop": asyncio.get_running_loop()}
        kwargs.setdefault("stream_writer", _NothingWritten)
        super().__init__(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "content":
            value = aiohttp.StreamReader(_NeverPaused(), limit=2**16, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        super().__setattr__(name, value)


class _NeverPaused:
    """The part of a connection that a stream uses which is fed at once."""

    _reading_paused = False

    def pause_reading(self, **_: Any) -> None:
        return

    def resume_reading(self, **_: Any) -> None:
        return


class _NothingWritten:
    output_size = 0


def _result(response: ServerResponse) -> CallbackResult:
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-type"}
    headers.setdefault("Content-Length", str(len(response.body)))  # aioresponses frames nothing
    return CallbackResult(
        status=response.status,
        body=response.body,
        headers=headers,
        content_type=next((v for n, v in response.headers.items() if n.lower() == "content-type"), "application/json"),
        response_class=_BridgedResponse,
    )


async def _body(data: Any) -> bytes:
    if data is None:
        return b""
    return await data.as_bytes() if isinstance(data, BodyPayload) else bytes(data)
