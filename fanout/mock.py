"""The mock: a model of the right shape, in this process, answers in the endpoint's place, without a network.

`MockModel` makes values that depend on a seed and the row alone, `MockTransport` answers in the wire format of a codec,
and `play` adds the faults: the bytes that a faulty server would send are collected, and read as a client reads HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

import numpy as np
import orjson
from multidict import CIMultiDict

from fanout.codecs._options import ANY_OUTPUT, spec_for
from fanout.errors import ConfigError, ConnectError, IncompleteResponse, ResponseTooLarge
from fanout.faults.endpoint import FakeEndpoint
from fanout.faults.names import Fault
from fanout.options import checks_options
from fanout.rows import count_rows
from fanout.serving.exchange import ServerRequest, ServerResponse
from fanout.transport import decoded, looks_like_json
from fanout.types import Response, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.codecs.base import Codec
    from fanout.faults.endpoint import PlannedStep
    from fanout.transport import Request
    from fanout.types import Array, Rows

_DEFAULT = np.dtype(np.float32)
_INTEGERS = 100
_MISSING = (
    "is missing: neither the codec nor the job has the shape of one row's answer; give mock.shape, such as [10] "
    "([] for one value a row), or the codec's own option shape"
)

# Bytes after which a body counts as endless.
_CAP = 2**25

# Bytes of the longest header field, as the default of ``max_header_bytes`` has it.
_LONGEST_FIELD = 64 * 2**10

_ORIGIN = "http://mock.invalid"
_NAME = "mock"


def outputs_of(codec: Codec, given: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The specs of the model's outputs by name: those of the job, else those of the codec.

    Raises `ConfigError` for an output whose shape neither of them has.
    """
    known = codec.spec
    named = [*(codec.options.get("outputs") or ()), *known, *given]
    names = [name for name in dict.fromkeys(named) if name != ANY_OUTPUT] or [""]
    outputs = {name: _merged(spec_for(given, name), spec_for(known, name)) for name in names}
    texts = [name for name, spec in outputs.items() if spec.dtype is not None and spec.dtype.kind == "T"]
    # The finish reason of a chat stands beside its text, and comes from the server, not from the model.
    return {texts[0]: outputs[texts[0]]} if len(texts) == len(outputs) else outputs


class MockModel:
    """Gives values for rows, as `outputs_of` specifies them: floats from 0 to 1, integers below 100, short texts.

    A row has the same answer in every run with the same seed, whatever chunk it comes in.
    """

    def __init__(self, outputs: Mapping[str, TensorSpec], seed: int) -> None:
        self._outputs = outputs
        self._seed = seed.to_bytes(16, "little", signed=True)

    def __call__(self, rows: Any) -> Any:
        """One array, or output name -> array; a list where the values are texts."""
        names = list(_digests(rows, self._seed))
        outputs = {name: _values(spec, names) for name, spec in self._outputs.items()}
        return outputs[""] if outputs.keys() == {""} else outputs


def _merged(given: TensorSpec, known: TensorSpec) -> TensorSpec:
    shape = known.shape if given.shape is None else given.shape
    dtype = given.dtype or known.dtype or _DEFAULT
    if shape is None or None in shape:
        if dtype.kind != "T":
            raise ConfigError(_MISSING, key="mock.shape")
        shape = ()
    return TensorSpec(dtype=dtype, shape=shape)


def _digests(rows: Rows, key: bytes) -> list[bytes]:
    columns = list(rows.values()) if isinstance(rows, Mapping) else [rows]
    digests = []
    for i in range(count_rows(rows)):
        name = blake2b(digest_size=16, key=key)
        for column in columns:
            cell = column[i]
            # The bytes of numbers are hashed as they are; JSON of a large array would take most of the time.
            plain = isinstance(cell, np.ndarray | np.generic) and cell.dtype.kind in "biuf"
            name.update(cell.tobytes() if plain else orjson.dumps(cell, default=repr))
        digests.append(name.digest())
    return digests


def _values(spec: TensorSpec, names: list[bytes]) -> Array | list[Any]:
    assert spec.dtype is not None
    if spec.dtype.kind == "T":
        return [f"mock {name.hex()[:8]}" for name in names]
    shape = tuple(length or 0 for length in spec.shape or ())
    values = np.empty((len(names), *shape), spec.dtype)
    for row, name in enumerate(names):
        # A generator for each row: its values must not depend on the other rows of the chunk.
        random = np.random.default_rng(int.from_bytes(name)).random(shape)
        values[row] = (
            random < 0.5 if values.dtype.kind == "b" else random * (_INTEGERS if values.dtype.kind in "iu" else 1)
        )
    return values


async def play(
    step: PlannedStep, request: ServerRequest, answer: Callable[[ServerRequest], Awaitable[ServerResponse]]
) -> ServerResponse:
    """The response to ``request`` under a step. Raises `TransportError` by a fault, and the step if it is an exception.

    ``answer`` gives the response of a correct server, also to another request: some faults need one in JSON.
    """
    if step is None:
        return await answer(request)
    if isinstance(step, ServerResponse):
        return step
    if not isinstance(step, Fault):
        raise step
    collected = _Collected()
    await step.strike(collected, request, answer, _refuse)
    return _read_response(bytes(collected.sent))


class _Collected:
    """A connection that keeps the bytes which are sent over it."""

    doomed = False

    def __init__(self) -> None:
        self.sent = bytearray()

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sent += part
        # An endless body would otherwise fill the memory, as no client stops reading here.
        if len(self.sent) > _CAP:
            raise ResponseTooLarge(f"the answer is larger than {_CAP:,} bytes")

    def close(self) -> None:
        return

    def reset(self) -> None:
        return

    async def half_close(self) -> None:
        return

    async def gone(self) -> None:
        # Only the deadline of the attempt ends this, as with a silent server.
        await asyncio.Event().wait()


async def _refuse(seconds: float) -> NoReturn:
    raise ConnectError("cannot connect to the mock: Connection refused")


def _read_response(raw: bytes) -> ServerResponse:
    head, end, body = raw.partition(b"\r\n\r\n")
    if not end:
        raise IncompleteResponse("the exchange with the mock broke off: no answer came")
    first, *fields = head.decode("latin-1").split("\r\n")
    # aiohttp refuses such a field, so the fake has to as well.
    if any(len(field) > _LONGEST_FIELD for field in fields):
        raise IncompleteResponse("the exchange with the mock broke off: no valid HTTP")
    headers = CIMultiDict((name, value.strip()) for name, _, value in (field.partition(":") for field in fields))
    status, body = int(first.split()[1]), _framed(headers, body)
    if status == 206:
        raise IncompleteResponse("the answer has status 206: it is a part of an answer")
    encoding = headers.get("Content-Encoding", "identity").lower()
    if status < 300 and encoding != "identity":
        body = decoded(body, encoding, _CAP)
    return ServerResponse(status=status, headers=headers, body=body)


def _framed(headers: CIMultiDict[str], rest: bytes) -> bytes:
    """The body in the bytes behind a header. Raises `IncompleteResponse` where it has no end, or several."""
    lengths = headers.getall("Content-Length", [])
    if not lengths and "Transfer-Encoding" not in headers and looks_like_json(rest):
        return rest  # the end of the connection ends the body
    body, behind = (rest[: int(lengths[0])], rest[int(lengths[0]) :]) if lengths else (rest, b"")
    # A real client finds another response behind this one on the idle connection, and closes that.
    whole = len(lengths) == 1 and len(body) == int(lengths[0]) and (not behind or behind.startswith(b"HTTP/1.1 "))
    if not whole or "Transfer-Encoding" in headers:
        raise IncompleteResponse("the exchange with the mock broke off: the framing of the answer is damaged")
    return body


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
