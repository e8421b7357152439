"""What each fault does to one exchange: the bytes that go out, and how the connection ends."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fanout.serving.exchange import ServerResponse, json_answer
from fanout.serving.faults.answers import first_half, labelled_gzip
from fanout.serving.faults.line import framed, head

if TYPE_CHECKING:
    from fanout.serving.exchange import ServerRequest
    from fanout.serving.faults.line import Line

_SKEW = timedelta(hours=-1)
"""How far the clock of a server is off that gives dates."""

_PIECE = bytes(2**16)


class Listener(Protocol):
    """What a fault can do to the server as a whole."""

    async def refuse(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones for a while."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange that is to go wrong."""

    line: Line
    request: ServerRequest
    answer: ServerResponse
    """What should be sent."""

    listener: Listener
    value: Any
    """The fault's parameter."""


Act: TypeAlias = Callable[[Turn], Awaitable[None]]


async def refused(turn: Turn) -> None:
    await turn.listener.refuse(turn.value)


async def silence(turn: Turn) -> None:
    await turn.line.gone()


async def slow(turn: Turn) -> None:
    await asyncio.sleep(turn.value)
    await turn.line.send(framed(turn.answer))


async def drip(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, [f"Content-Length: {len(turn.answer.body)}"]))
    for byte in turn.answer.body:
        await asyncio.sleep(turn.value)
        await turn.line.send(bytes([byte]))


async def reset_before_headers(turn: Turn) -> None:
    turn.line.reset()


async def close_before_headers(turn: Turn) -> None:
    turn.line.close()


async def reset_mid_body(turn: Turn) -> None:
    await turn.line.send(_first_half(turn.answer))
    turn.line.reset()


async def short_body(turn: Turn) -> None:
    await turn.line.send(_first_half(turn.answer))
    turn.line.close()


async def chunked_without_end(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, ["Transfer-Encoding: chunked"]), _chunk(turn.answer.body))
    turn.line.close()


async def close_delimited_cut(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, ["Connection: close"]), first_half(turn.answer).body)
    turn.line.close()


async def small_content_length(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, [f"Content-Length: {len(turn.answer.body) // 2}"]) + turn.answer.body)


async def two_content_lengths(turn: Turn) -> None:
    whole = len(turn.answer.body)
    await turn.line.send(head(turn.answer, [f"Content-Length: {whole // 2}", f"Content-Length: {whole}"]))
    await turn.line.send(turn.answer.body)


async def length_and_chunked(turn: Turn) -> None:
    fields = [f"Content-Length: {len(turn.answer.body)}", "Transfer-Encoding: chunked"]
    await turn.line.send(head(turn.answer, fields) + _chunk(turn.answer.body) + b"0\r\n\r\n")


async def xchunked(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, ["Transfer-Encoding: xchunked"]), _chunk(turn.answer.body) + b"0\r\n\r\n")
    turn.line.close()


async def chunked_gzip(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, ["Transfer-Encoding: chunked, gzip"]), turn.answer.body)
    turn.line.close()


async def partial(turn: Turn) -> None:
    await turn.line.send(framed(replace(turn.answer, status=206)))


async def unsolicited(turn: Turn) -> None:
    # In one piece: what comes once the next request is written, no client can tell from its answer.
    await turn.line.send(framed(turn.answer) * 2)


async def answered_twice(turn: Turn) -> None:
    await turn.line.send(framed(turn.answer))
    await asyncio.sleep(turn.value)
    await turn.line.send(framed(turn.answer))


async def timeout_when_idle(turn: Turn) -> None:
    late = ServerResponse(status=408, headers={"Connection": "close"}, body=b"")
    await turn.line.send(framed(turn.answer) + framed(late))
    turn.line.close()


async def close_on_reuse(turn: Turn) -> None:
    turn.line.doomed = True
    await turn.line.send(framed(turn.answer))


async def close_after_answer(turn: Turn) -> None:
    await turn.line.send(framed(turn.answer))
    turn.line.close()


async def gzip_bomb(turn: Turn) -> None:
    await turn.line.send(framed(labelled_gzip(replace(turn.answer, body=_bomb(turn.value)))))


async def endless(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, ["Transfer-Encoding: chunked"]))
    while True:
        await turn.line.send(_chunk(_PIECE))


async def huge_header(turn: Turn) -> None:
    await turn.line.send(head(turn.answer, [f"X-Long: {'x' * turn.value}", f"Content-Length: {len(turn.answer.body)}"]))
    await turn.line.send(turn.answer.body)


async def status(turn: Turn) -> None:
    await turn.line.send(framed(_told_to(turn.value)))


async def retry_after(turn: Turn) -> None:
    await turn.line.send(framed(_told_to(429, {"Retry-After": turn.value})))


async def retry_date(turn: Turn) -> None:
    now = datetime.now(UTC).replace(microsecond=0) + _SKEW
    then = now + timedelta(seconds=turn.value)
    dates = {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)}
    await turn.line.send(framed(_told_to(429, dates)))


async def redirect(turn: Turn) -> None:
    await turn.line.send(framed(_told_to(307, {"Location": turn.value})))


async def early_413(turn: Turn) -> None:
    await turn.line.send(framed(_told_to(413, {"Connection": "close"})))
    await turn.line.half_close()
    turn.line.close()


async def echo(turn: Turn) -> None:
    said = f"refused {turn.request.method} {turn.request.path} with {dict(turn.request.headers)}"
    await turn.line.send(framed(json_answer({"error": said}, status=turn.value)))


def _told_to(status: int, headers: Mapping[str, str] | None = None) -> ServerResponse:
    answer = json_answer({"error": "this fault was asked for"}, status=status)
    return replace(answer, headers={**answer.headers, **(headers or {})})


def saying(change: Callable[[ServerResponse], ServerResponse]) -> Act:
    """A fault in what a whole answer says. Errors stay as they are: nothing in them is believed."""

    async def act(turn: Turn) -> None:
        await turn.line.send(framed(change(turn.answer) if turn.answer.status == 200 else turn.answer))

    return act


def _first_half(answer: ServerResponse) -> bytes:
    return framed(answer)[: -(len(answer.body) + 1) // 2]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@lru_cache(2)
def _bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 9)
