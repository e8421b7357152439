"""Faults without a connection: what the fault server would send is collected, and read as HTTP has it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn, cast

from multidict import CIMultiDict

from fanout.errors import ConnectError, IncompleteResponse, ResponseTooLarge
from fanout.serving.exchange import ServerResponse
from fanout.serving.faults.acts import Turn
from fanout.serving.faults.answers import in_json
from fanout.transport import decoded, looks_like_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.serving.exchange import ServerRequest
    from fanout.serving.faults.line import Line
    from fanout.serving.faults.names import Fault

_CAP = 2**25
"""Bytes after which a body without end is taken for one."""

_LONGEST_HEAD = 64 * 2**10
"""As an endpoint has it that sets nothing else."""


async def endured(
    fault: Fault, request: ServerRequest, right: ServerResponse, again: Callable[[ServerRequest], ServerResponse]
) -> ServerResponse:
    """What comes of an exchange that ``fault`` befalls, in place of the ``right`` answer.

    ``again`` gives the right answer to another request, for faults that need one in JSON. Raises `TransportError`.
    """
    if fault.in_json:
        right = again(in_json(request))
    line = _Line()
    await fault.act(Turn(cast("Line", line), request, right, _Refusing(), fault.value))
    return _read(bytes(line.sent))


class _Line:
    """As much of a connection as faults ask for."""

    doomed = False

    def __init__(self) -> None:
        self.sent = bytearray()

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sent += part
        if len(self.sent) > _CAP:
            raise ResponseTooLarge(f"the answer is larger than {_CAP:,} bytes")

    def close(self) -> None:
        return

    def reset(self) -> None:
        return

    async def half_close(self) -> None:
        return

    async def gone(self) -> None:
        await asyncio.Event().wait()


class _Refusing:
    async def refuse(self, seconds: float) -> NoReturn:
        raise ConnectError("cannot connect to the mock: Connection refused")


def _read(raw: bytes) -> ServerResponse:
    head, end, body = raw.partition(b"\r\n\r\n")
    if not end:
        raise IncompleteResponse("the exchange with the mock broke off: no answer came")
    first, *fields = head.decode("latin-1").split("\r\n")
    if any(len(field) > _LONGEST_HEAD for field in fields):
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
    """The body in what follows a header. Raises `IncompleteResponse` where it has no end, or several."""
    lengths = headers.getall("Content-Length", [])
    if not lengths and "Transfer-Encoding" not in headers and looks_like_json(rest):
        return rest  # the end of the connection is its end
    body, behind = (rest[: int(lengths[0])], rest[int(lengths[0]) :]) if lengths else (rest, b"")
    # Another answer behind this one is found on the idle connection, which is then closed.
    whole = len(lengths) == 1 and len(body) == int(lengths[0]) and (not behind or behind.startswith(b"HTTP/1.1 "))
    if not whole or "Transfer-Encoding" in headers:
        raise IncompleteResponse("the exchange with the mock broke off: the framing of the answer is damaged")
    return body
