"""Request bodies in gzip: compressed once for all attempts of a chunk, below everything that looks at a request."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from fanout.transport.bodies import length_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.transport.base import Request, Transport
    from fanout.types import Buffer, Response

# A smaller body fits into one packet of a network anyway.
_SMALLEST = 1024

# Bytes that take a millisecond or two.
_COMPRESSED_ON_LOOP = 64 * 2**10

# JSON shrinks to within a tenth of what a higher level reaches, in a third of the time.
_LEVEL = 1
# zlib's name for the container of gzip, which it fills without a time, so that equal bodies stay equal.
_GZIP = 31


class GzipBody:
    """The body of one payload in gzip, made when it is first sent."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: asyncio.Future[bytes] | bytes | None = None

    @property
    def was_sent(self) -> bool:
        """True if a request had the body in gzip: small ones, and those that do not shrink, are sent as they are."""
        return isinstance(self._made, bytes) and bool(self._made)

    async def of(self, parts: Sequence[Buffer]) -> bytes:
        """The compressed ``parts``; empty if they are to be sent as they are."""
        if self._made is None:
            length = length_of(tuple(parts))
            if length < _SMALLEST:
                self._made = b""
            elif length <= _COMPRESSED_ON_LOOP:
                self._made = _compressed(parts, length)
            else:  # zlib releases the interpreter, so a large body does not hold up the event loop
                self._made = asyncio.get_running_loop().run_in_executor(None, _compressed, parts, length)
        if isinstance(self._made, bytes):
            return self._made
        # Another attempt may wait for it too, so the end of this one does not cancel it.
        self._made = made = await asyncio.shield(self._made)
        return made


class CompressingTransport:
    """Sends requests through another transport with their bodies in gzip.

    A recorder wraps this one, so that it sees bodies as the codec made them. Signatures of what is sent are made below.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._headers: Mapping[str, str] | None = None
        self._merged: CIMultiDict[str] = CIMultiDict()

    async def send(self, request: Request) -> Response:
        """Send ``request``. Raises what the transport raises."""
        if request.gzip is None or "Content-Encoding" in request.headers:
            return await self._transport.send(request)
        body = await request.gzip.of(request.body)
        if not body:
            return await self._transport.send(request)
        if self._headers is not request.headers:  # the fast path encodes the same object only once
            self._headers, self._merged = request.headers, CIMultiDict(request.headers)
            self._merged["Content-Encoding"] = "gzip"
        return await self._transport.send(replace(request, headers=self._merged, body=(body,)))


def _compressed(parts: Sequence[Buffer], length: int) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    packed = b"".join([*map(packer.compress, parts), packer.flush()])
    return packed if len(packed) < length else b""
