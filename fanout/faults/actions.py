"""The action of each fault on one exchange: the bytes that are sent, and the end of the connection.

A corruption is an action on a response with status 200: the correct one, changed in one place.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import orjson

from fanout.serving.exchange import ServerResponse, json_answer

if TYPE_CHECKING:
    from fanout.serving.exchange import ServerRequest

# The error of the clock of a server that sends dates.
_SKEW = timedelta(hours=-1)

_PIECE = bytes(2**16)
_TOKEN = "\x00fault\x00"  # noqa: S105 - replaced in the encoded JSON by a literal that orjson cannot write
_LENGTH_HEADER = "inference-header-content-length"


class FaultyConnection(Protocol):
    """The server's end of a connection, as far as faults use it. `Connection` is one over a socket."""

    doomed: bool
    """The connection is to end as soon as another request begins on it."""

    async def send(self, *parts: bytes) -> None:
        """Send the parts."""

    def close(self) -> None:
        """End the connection with a FIN."""

    def reset(self) -> None:
        """End the connection with a RST."""

    async def half_close(self) -> None:
        """Send a FIN, and read until the client ends the connection."""

    async def gone(self) -> None:
        """Wait until the client ends the connection."""


@dataclass(frozen=True, slots=True)
class FaultyExchange:
    """One exchange that is to go wrong."""

    connection: FaultyConnection
    request: ServerRequest
    response: ServerResponse
    """The response of a correct server."""

    refuse: Callable[[float], Awaitable[None]]
    """Resets every connection of the server, and refuses new ones for some seconds."""

    value: Any
    """The fault's parameter."""

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return self.response.body

    def head(self, *fields: str) -> bytes:
        """The status line and header of the response, with ``fields`` that frame the body."""
        return self.response.head(fields)

    def without_half(self) -> bytes:
        """The response without half of its body, under a whole header that states the length of the whole body."""
        return self.response.encoded()[: -(len(self.body) + 1) // 2]


FaultAction: TypeAlias = Callable[[FaultyExchange], Awaitable[None]]

Corruption: TypeAlias = Callable[[ServerResponse], ServerResponse]
"""Gives a corrupt response for a correct one."""


def sending(
    parts: Callable[[FaultyExchange], Iterable[bytes]], then: Literal["", "close", "reset"] = ""
) -> FaultAction:
    """The action that sends the parts, each as soon as the one before has left, then ends the connection."""

    async def act(exchange: FaultyExchange) -> None:
        await exchange.connection.send(*parts(exchange))
        if then:
            getattr(exchange.connection, then)()

    return act


def answering(change: Callable[[FaultyExchange], ServerResponse]) -> FaultAction:
    """The action that sends another response, whole and well framed."""
    return sending(lambda exchange: [change(exchange).encoded()])


async def silence(exchange: FaultyExchange) -> None:
    # Only the client's deadline can end this, as with a server that hangs.
    await exchange.connection.gone()


async def slow(exchange: FaultyExchange) -> None:
    await asyncio.sleep(exchange.value)
    await exchange.connection.send(exchange.response.encoded())


async def drip(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.head(f"Content-Length: {len(exchange.body)}"))
    # The deadline of an attempt has to end this: each byte resets a timeout on inactivity.
    for byte in exchange.body:
        await asyncio.sleep(exchange.value)
        await exchange.connection.send(bytes([byte]))


async def answered_twice(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.response.encoded())
    await slow(exchange)


async def close_on_reuse(exchange: FaultyExchange) -> None:
    exchange.connection.doomed = True
    await exchange.connection.send(exchange.response.encoded())


async def endless(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.head("Transfer-Encoding: chunked"))
    while True:
        # Large pieces, so that a cap is reached in milliseconds.
        await exchange.connection.send(chunk(_PIECE))


async def early_413(exchange: FaultyExchange) -> None:
    await exchange.connection.send(refusal(413, {"Connection": "close"}).encoded())
    # A RST for the unread body would discard the response in the client's buffer.
    await exchange.connection.half_close()
    exchange.connection.close()


@answering
def retry_date(exchange: FaultyExchange) -> ServerResponse:
    now = datetime.now(UTC).replace(microsecond=0) + _SKEW
    then = now + timedelta(seconds=exchange.value)
    return refusal(429, {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)})


@answering
def echo(exchange: FaultyExchange) -> ServerResponse:
    request = exchange.request
    message = f"refused {request.method} {request.path} with {dict(request.headers)}"
    return json_answer({"error": message}, status=exchange.value)


def refusal(status: int, headers: Mapping[str, str] | None = None) -> ServerResponse:
    """An error in place of the response."""
    response = json_answer({"error": "this fault was asked for"}, status=status)
    return replace(response, headers={**response.headers, **(headers or {})})


# Compressing a bomb takes longer than all else in a test.
@lru_cache(2)
def zeros_in_gzip(size: int) -> bytes:
    """That many zeros, compressed."""
    return gzip.compress(bytes(size), 9)


def chunk(data: bytes, *, last: bool = False) -> bytes:
    """A chunk of a chunked body, with the end of the body behind it if it is the last."""
    return b"%x\r\n%s\r\n%s" % (len(data), data, b"0\r\n\r\n" if last else b"")


def in_json(request: ServerRequest) -> ServerRequest:
    """``request``, changed to ask for a response without binary tensors, which can be corrupted as JSON."""
    length = request.header(_LENGTH_HEADER)
    try:
        end = int(length) if length else len(request.body)
        document = orjson.loads(request.body[:end])
    except ValueError:
        return request
    if not isinstance(document, dict) or "inputs" not in document:
        return request
    # Without their parameters, which ask for binary tensors.
    document["outputs"] = [{"name": output["name"]} for output in document.get("outputs", ())]
    document.pop("parameters", None)
    json = orjson.dumps(document)
    headers = {name: value for name, value in request.headers.items() if name.lower() != _LENGTH_HEADER}
    headers[_LENGTH_HEADER] = str(len(json))
    return replace(request, headers=headers, body=json + request.body[end:])


def with_rows(edit: Callable[[list[Any]], list[Any]]) -> Corruption:
    """Change the list of rows, in any of the protocols."""
    return lambda response: replace(response, body=orjson.dumps(_edited(orjson.loads(response.body), edit)))


def with_value(literal: str) -> Corruption:
    """Replace one value of the middle row by ``literal``."""

    def edit(rows: list[Any]) -> list[Any]:
        middle = len(rows) // 2
        return [*rows[:middle], _marked(rows[middle]), *rows[middle + 1 :]]

    def corrupt(response: ServerResponse) -> ServerResponse:
        marked = with_rows(edit)(response)
        return replace(marked, body=marked.body.replace(orjson.dumps(_TOKEN), literal.encode()))

    return corrupt


def ragged(rows: list[Any]) -> list[Any]:
    """Make one row longer than the others."""
    middle = len(rows) // 2
    row = rows[middle]
    if isinstance(row, dict):
        # The number of the row stays, or the fault would be another one.
        longer: Any = {name: _longer(value) if name != "index" else value for name, value in row.items()}
    else:
        longer = _longer(row)
    return [*rows[:middle], longer, *rows[middle + 1 :]]


def permuted_ids(rows: list[Any]) -> list[Any]:
    """Reverse rows that carry their number; leave others in place."""
    return rows[::-1] if _numbered(rows) else rows


def duplicate_ids(rows: list[Any]) -> list[Any]:
    """Give the last row the number of the first; leave rows without a number unchanged."""
    return [*rows[:-1], {**rows[-1], "index": rows[0]["index"]}] if _numbered(rows) and len(rows) > 1 else rows


def other_body(body: bytes, content_type: str) -> Corruption:
    """Replace the whole body."""
    return lambda response: replace(response, body=body, headers={"Content-Type": content_type})


def first_half(response: ServerResponse) -> ServerResponse:
    """Cut the body in half, with a framing that fits the half."""
    return replace(response, body=response.body[: len(response.body) // 2])


def zipped(change: Callable[[bytes], bytes]) -> Corruption:
    """Compress the body, then change the compressed bytes."""
    return lambda response: labelled_gzip(replace(response, body=change(gzip.compress(response.body, 1))))


def labelled_gzip(response: ServerResponse) -> ServerResponse:
    """Label the unchanged body as gzip."""
    return replace(response, headers={**response.headers, "Content-Encoding": "gzip"})


def _edited(document: Any, edit: Callable[[list[Any]], list[Any]]) -> Any:
    if isinstance(document, list):
        return edit(document)
    for name in ("predictions", "data", "choices"):
        if isinstance(document.get(name), list):
            return {**document, name: edit(document[name])}
    outputs = document.get("outputs")
    if isinstance(outputs, list) and outputs:
        return {**document, "outputs": [_edited_tensor(output, edit) for output in outputs]}
    return document


def _edited_tensor(tensor: dict[str, Any], edit: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    n_rows, *shape = tensor["shape"]
    rows = edit(np.array(tensor["data"], object).reshape(n_rows, *shape).tolist())
    return {**tensor, "shape": [len(rows), *shape], "data": rows}


def _marked(row: Any) -> Any:
    if isinstance(row, dict):
        # Rows of the OpenAI APIs have other fields before the value.
        name = next((known for known in ("embedding", "message", "content") if known in row), next(iter(row)))
        value = row[name]
        return {**row, name: _TOKEN if isinstance(value, str) else _marked(value)}
    return [_marked(row[0]), *row[1:]] if isinstance(row, list) and row else _TOKEN


def _longer(value: Any) -> Any:
    if isinstance(value, str):
        return value * 2
    return [*value, value[-1]] if isinstance(value, list) and value else [value, value]


def _numbered(rows: list[Any]) -> bool:
    return all(isinstance(row, dict) and "index" in row for row in rows)
