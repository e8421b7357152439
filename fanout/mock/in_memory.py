"""Faults in memory: the bytes that a faulty server would send are collected, and read as a client reads HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

from multidict import CIMultiDict

from fanout.errors import ConnectError, IncompleteResponse, ResponseTooLarge
from fanout.faults.names import Fault
from fanout.serving.exchange import ServerResponse
from fanout.transport import decoded, looks_like_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.faults.plan import PlannedStep
    from fanout.serving.exchange import ServerRequest

# Bytes after which a body counts as endless.
_CAP = 2**25

# Bytes of the longest header field, as the default of ``max_header_bytes`` has it.
_LONGEST_FIELD = 64 * 2**10


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
    await step.strike(collected, request, answer, _Refusing())
    return _read(bytes(collected.sent))


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


class _Refusing:
    async def refuse(self, seconds: float) -> NoReturn:
        raise ConnectError("cannot connect to the mock: Connection refused")


def _read(raw: bytes) -> ServerResponse:
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
