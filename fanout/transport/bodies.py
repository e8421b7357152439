"""Bodies: sent in parts without a copy, and read whole, within a bound, to their real end."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, cast

import aiohttp
from aiohttp import hdrs
from aiohttp.payload import Payload as BodyPayload

from fanout.errors import IncompleteResponse, ResponseTooLarge
from fanout.transport.buffers import length_of_large, receive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter

    from fanout.transport.buffers import Buffers
    from fanout.transport.fast_path import FastResponse
    from fanout.types import Buffer

_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})
# Values of Content-Encoding that change nothing; some servers put the charset there.
_NO_ENCODING = frozenset({"", "identity", "none", "utf-8", "utf8", "8bit", "binary"})

# Statuses of a part or a difference (RFC 9110, 15.3.7; RFC 3229), which no request of fanout asks for.
_PARTIAL = frozenset({206, 226})

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Bytes read of a response with an error status: enough to classify it and to quote it.
ERROR_BODY_CAP = 64 * 2**10

# Compressed bytes that take some milliseconds at most, even if they expand a thousandfold.
_SOON_DECOMPRESSED = 16 * 2**10

# Seconds to wait for the body of an error, whose status and header have come already.
ERROR_BODY_PATIENCE = 2.0


class Parts(BodyPayload):
    """A body of several buffers, written one after the other without being joined, once for each attempt."""

    def __init__(self, parts: tuple[Buffer, ...]) -> None:
        super().__init__(parts)
        self._size = length_of(parts)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for part in self._value:  # asyncio copies the unsent rest of bytes, but not of a view
            await writer.write(memoryview(part))

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"".join(self._value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)


def length_of(parts: tuple[Buffer, ...]) -> int:
    """Bytes in all parts together."""
    # The length of a view of an array is that of its first axis.
    return sum([part.nbytes if isinstance(part, memoryview) else len(part) for part in parts])


async def read_body(
    response: aiohttp.ClientResponse | FastResponse,
    cap: int,
    patience: float = ERROR_BODY_PATIENCE,
    buffers: Buffers | None = None,
) -> bytes:
    """The whole body without its content encoding; of an error page the part that comes within ``patience`` seconds.

    A large body is received into one of the ``buffers``, if there are any.

    Raises `ResponseTooLarge`, `IncompleteResponse`, and aiohttp's errors.
    """
    headers = response.headers
    encoding = _content_encoding(headers) if hdrs.CONTENT_ENCODING in headers else ""
    if response.status >= 300:
        body = await _error_body(response, encoding, patience)
        return body.removeprefix(BYTE_ORDER_MARK) if looks_like_json(body) else body
    plain = response.status == 200 and hdrs.CONTENT_LENGTH in headers and hdrs.TRANSFER_ENCODING not in headers
    framed = plain or _framed(response)
    content = response.content
    # Most often the body has come with the header, so there is nothing to wait for and nothing to copy.
    if content.is_eof():
        body = content.read_nowait(-1)
    elif buffers is not None and (buffer := _buffer_for(response, cap, buffers)) is not None:
        await receive(response, buffer)
        body = cast("bytes", buffer)  # a caller that gives buffers takes bytearrays
    else:
        body = await _read_up_to(response, cap)
    body = checked_body(body, headers, cap)
    if encoding:
        # zlib releases the interpreter, so a large body does not hold up the event loop.
        large = len(body) > _SOON_DECOMPRESSED
        body = await asyncio.to_thread(decoded, body, encoding, cap) if large else decoded(body, encoding, cap)
        body = checked_body(body, headers, cap)
    elif not framed and not looks_like_json(body):
        raise IncompleteResponse("the answer has neither Content-Length nor chunks: nothing shows that it is whole")
    return body


def checked_body(body: bytes, headers: Mapping[str, str], cap: int) -> bytes:
    """``body`` without the byte order mark that some servers put before JSON, and that no JSON parser takes.

    The mark stays where the server says that the body is something else: binary data may begin with the same bytes.
    Raises `ResponseTooLarge` for more than ``cap`` bytes.
    """
    if len(body) > cap:
        raise ResponseTooLarge(f"the answer is larger than the cap of {cap:,} bytes (max_response_bytes)")
    if not body.startswith(BYTE_ORDER_MARK):
        return body
    content_type = headers.get(hdrs.CONTENT_TYPE, "json").lower()
    may_be_json = "json" in content_type or content_type.startswith("text/")
    return body[len(BYTE_ORDER_MARK) :] if may_be_json and looks_like_json(body) else body


def _buffer_for(response: aiohttp.ClientResponse | FastResponse, cap: int, buffers: Buffers) -> bytearray | None:
    length = length_of_large(response)
    return buffers.take(length) if 0 < length <= cap else None


def _framed(response: aiohttp.ClientResponse | FastResponse) -> bool:
    """False if only the end of the connection ends the body, which an accident does too.

    Raises `IncompleteResponse` if the header announces a part of a response, or frames it in a way that two readers may
    understand differently. aiohttp takes any Transfer-Encoding that contains "chunked" for chunked.
    """
    headers = response.headers
    if response.status in _PARTIAL:
        raise IncompleteResponse(f"the answer has status {response.status}: it is a part of an answer")
    if hdrs.TRANSFER_ENCODING in headers:
        coding = ", ".join(headers.getall(hdrs.TRANSFER_ENCODING)).strip().lower()
        if coding != "identity":  # an old name for no encoding
            _require_chunked(coding, response)
            return True
    return hdrs.CONTENT_LENGTH in headers or response.status == 204


def _require_chunked(coding: str, response: aiohttp.ClientResponse | FastResponse) -> None:
    if coding != "chunked":
        raise IncompleteResponse(
            "the answer has a Transfer-Encoding other than chunked: nothing shows that it is whole"
        )
    if response.version is not None and response.version < aiohttp.HttpVersion11:
        raise IncompleteResponse("the answer has a Transfer-Encoding, which HTTP/1.0 does not have")
    if hdrs.CONTENT_LENGTH in response.headers:
        raise IncompleteResponse("the answer has both Transfer-Encoding and Content-Length")


def _content_encoding(headers: Mapping[str, str]) -> str:
    """The codings of all Content-Encoding fields, in lower case; empty where they change nothing."""
    fields = ",".join(value for name, value in headers.items() if name.lower() == "content-encoding")
    codings = [coding.strip().lower() for coding in fields.split(",")]
    return ", ".join(coding for coding in codings if coding not in _NO_ENCODING)


def looks_like_json(body: bytes) -> bool:
    """True if the syntax of the body will show a missing end."""
    return body.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] in (b"{", b"[")


async def _error_body(response: aiohttp.ClientResponse | FastResponse, encoding: str, patience: float) -> bytes:
    """The part of an error's body that comes in time: its status and header count without it."""
    try:
        if response.content.is_eof():
            body = response.content.read_nowait(-1)[:ERROR_BODY_CAP]
        else:
            async with asyncio.timeout(patience):
                body = (await _read_up_to(response, ERROR_BODY_CAP))[:ERROR_BODY_CAP]
        return _decompressed(body, encoding, ERROR_BODY_CAP)[0] if encoding else body
    except Exception:  # noqa: BLE001 - a parser may raise anything
        response.close()
        return b""


async def _read_up_to(response: aiohttp.ClientResponse | FastResponse, cap: int) -> bytes:
    """The body. One larger than ``cap`` is read a little beyond it, and its connection is closed."""
    content = response.content
    parts: list[bytes] = []
    size = 0
    with _EndWithConnection(response):
        while size <= cap and (part := await content.readany()):
            parts.append(part)
            size += len(part)
    if size > cap:
        response.close()
    return b"".join(parts)


class _EndWithConnection:
    """Ends the reading of a body whose connection is lost.

    If the framing breaks in mid-body, aiohttp 3.14 closes the connection and leaves the reader waiting.
    """

    __slots__ = ("_closed", "_content")

    def __init__(self, response: aiohttp.ClientResponse | FastResponse) -> None:
        protocol = None if response.connection is None else response.connection.protocol
        self._closed = None if protocol is None else protocol.closed
        self._content = response.content

    def __enter__(self) -> None:
        if self._closed is None:  # gone already
            self._end(None)
        else:
            self._closed.add_done_callback(self._end)

    def __exit__(self, *_: object) -> None:
        if self._closed is not None:
            self._closed.remove_done_callback(self._end)

    def _end(self, _: object) -> None:
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("the framing of the answer is damaged"))


def decoded(body: bytes, encoding: str, cap: int) -> bytes:
    """The body without its content encoding, which the server applied although the request asked for none."""
    try:
        plain, whole = _decompressed(body, encoding, cap + 1)
    except zlib.error as error:
        raise IncompleteResponse(f"the answer is labelled {encoding} but cannot be decompressed ({error})") from None
    if len(plain) > cap:
        raise ResponseTooLarge(f"the answer is larger than the cap of {cap:,} bytes once decompressed")
    if not whole:
        raise IncompleteResponse(f"the {encoding} data in the answer breaks off before its end, or goes on behind it")
    return plain


def _decompressed(body: bytes, encoding: str, most: int) -> tuple[bytes, bool]:
    """At most ``most`` bytes of the decompressed ``body``, and true if the compressed data end where the body does."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        # An unknown name may be anything, even a credential that the server repeats.
        known = _ENCODINGS.issuperset(part.strip() for part in encoding.split(","))
        shown = repr(encoding) if known else "(of no known name)"
        raise IncompleteResponse(f"the answer has the content encoding {shown}, which was not asked for")
    decoder = zlib.decompressobj(zlib.MAX_WBITS | (16 if "gzip" in encoding else 0))
    plain = decoder.decompress(body, most)
    return plain, decoder.eof and not decoder.unused_data
