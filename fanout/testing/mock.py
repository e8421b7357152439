"""The mock endpoint: a Python function on arrays is the model, in process, with no socket opened.

It speaks every protocol of the local model server, through aioresponses, so a client needs no change to be tested:
it is given the mock's URL.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import aiohttp
from aiohttp.payload import Payload as BodyPayload
from aioresponses import CallbackResult, aioresponses

from fanout.errors import ConfigError
from fanout.serving.models import Model
from fanout.serving.protocol import ServerRequest, ServerResponse, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from yarl import URL

    from fanout.codecs.base import Codec

ORIGIN = "http://fanout-mock.test"
"""A name that can never be resolved (RFC 6761), so that a request past the mock fails."""


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """An answer to be given in place of the model's."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Step: TypeAlias = int | Scripted | Exception | type[Exception] | None
"""A status, a whole answer, an exception to raise, or None: the model answers."""


class MockEndpoint:
    """An endpoint whose model is ``model``. A context manager; inside it, requests to `url` are answered here.

    ::

        with MockEndpoint(lambda x: x * 2) as mock:
            mock.script(503, None)
            async with fanout.Client(mock.url("v1"), codec="v1") as client:
                y = await client.map(X)

    Args:
        model: takes the rows of a request (an array, or a list of texts) and returns an array or a dict of arrays; or a
            whole `fanout.serving.models.Model`, which can describe its inputs and outputs.
        latency: seconds that every answer takes, or a function that gives them for each request number; with
            `VirtualClock` they cost nothing.
    """

    def __init__(self, model: Callable[[Any], Any] | Model, *, latency: float | Callable[[int], float] = 0.0) -> None:
        self._model = model if isinstance(model, Model) else Model(name="mock", function=model, embed=model)
        self._latency = latency if callable(latency) else lambda _: latency
        self._steps: deque[Step] = deque()
        self._metadata_steps: deque[Step] = deque()
        self._mock = aioresponses()
        self.requests: list[ServerRequest] = []
        """All that was sent to the model, in order; metadata requests are not among them."""

        self.times: list[float] = []
        """The loop's time at which each request came."""

        self.in_flight = 0
        self.max_in_flight = 0

    def url(self, codec: str | Codec | type[Codec] = "json") -> str:
        """The URL at which ``codec`` finds the model."""
        if isinstance(codec, str):
            from fanout.codecs import codec as by_name

            codec = by_name(codec)
        return ORIGIN + codec.path.replace("{model}", self._model.name)

    def script(self, *steps: Step) -> None:
        """What comes in place of the model's answers to the next requests: a status, a `Scripted`, an exception.

        None leaves a request to the model; after the last step all are. Raises `ConfigError` for anything else.
        """
        self._steps.extend(map(_checked, steps))

    def script_metadata(self, *steps: Step) -> None:
        """The same for GET requests, with which codecs ask about the model."""
        self._metadata_steps.extend(map(_checked, steps))

    def __enter__(self) -> Self:
        self._mock.start()
        everything = re.compile(re.escape(ORIGIN) + "(/.*)?$")
        for method in ("GET", "POST"):
            self._mock.add(everything, method=method, callback=self._answer_to(method), repeat=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mock.stop()

    def _answer_to(self, method: str) -> Callable[..., Any]:
        async def callback(url: URL, **sent: Any) -> CallbackResult:
            headers = dict(sent.get("headers") or {})
            request = ServerRequest(
                method=method, path=url.raw_path_qs, headers=headers, body=await _body(sent.get("data"))
            )
            return self._answer(request, self._metadata_steps) if method == "GET" else await self._answer_rows(request)

        return callback

    async def _answer_rows(self, request: ServerRequest) -> CallbackResult:
        number = len(self.requests)
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        steps = deque([self._steps.popleft()]) if self._steps else self._steps  # its step is the request's from now on
        try:
            await asyncio.sleep(self._latency(number))
        finally:
            self.in_flight -= 1
        return self._answer(request, steps)

    def _answer(self, request: ServerRequest, steps: deque[Step]) -> CallbackResult:
        step = steps.popleft() if steps else None
        if isinstance(step, Exception) or (isinstance(step, type) and issubclass(step, Exception)):
            raise step
        if step is None:
            return _result(answer(self._model, request))
        scripted = Scripted(status=step) if isinstance(step, int) else step
        headers = {"Content-Type": scripted.content_type, **scripted.headers}
        return _result(ServerResponse(status=scripted.status, headers=headers, body=scripted.body))


def _checked(step: Step) -> Step:
    scripted = Scripted(status=step) if isinstance(step, int) and not isinstance(step, bool) else step
    if isinstance(scripted, Scripted):
        fields = isinstance(scripted.headers, Mapping) and all(
            isinstance(text, str) for item in scripted.headers.items() for text in item
        )
        if not (isinstance(scripted.status, int) and 100 <= scripted.status <= 999):
            raise ConfigError(f"a status is a number of three digits, not {scripted.status!r}", key="script")
        if not fields or not isinstance(scripted.body, bytes):
            raise ConfigError(f"{scripted!r} cannot be sent: headers must be texts and body bytes", key="script")
    elif not (step is None or isinstance(step, Exception) or (isinstance(step, type) and issubclass(step, Exception))):
        raise ConfigError(f"a step is a status, a Scripted, an exception or None, not {step!r}", key="script")
    return step


class _BridgedResponse(aiohttp.ClientResponse):
    """What aioresponses 0.7.9 does not yet do for aiohttp >= 3.14 (aioresponses#289).

    It makes responses without the stream writer that they ask for, and feeds large bodies into a stream that then tries
    to pause a connection that is not there. The loop that it makes up for them says it is in debug mode, so that each
    response would take note of the whole stack.
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
    """As much of a connection as a stream that is fed at once asks for."""

    _reading_paused = False

    def pause_reading(self, **_: Any) -> None:
        return

    def resume_reading(self, **_: Any) -> None:
        return


class _NothingWritten:
    output_size = 0


def _result(made: ServerResponse) -> CallbackResult:
    headers = {name: value for name, value in made.headers.items() if name.lower() != "content-type"}
    headers.setdefault("Content-Length", str(len(made.body)))  # aioresponses frames nothing
    return CallbackResult(
        status=made.status,
        body=made.body,
        headers=headers,
        content_type=next((v for n, v in made.headers.items() if n.lower() == "content-type"), "application/json"),
        response_class=_BridgedResponse,
    )


async def _body(data: Any) -> bytes:
    if data is None:
        return b""
    return await data.as_bytes() if isinstance(data, BodyPayload) else bytes(data)
