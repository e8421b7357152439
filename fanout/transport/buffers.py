"""Large bodies of known length, received into one buffer.

aiohttp gives a body in parts that its parser has copied, to be joined: three copies, two of them avoidable. Until the
buffer is full, a protocol that receives into place replaces aiohttp's
(https://docs.python.org/3/library/asyncio-protocol.html#buffered-streaming-protocols).
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

    from fanout.transport.fast_path import FastResponse

# Bytes from which on the copies cost more than the change of protocols.
LARGE = 2**19

# Bytes of one call that receives.
_MOST_AT_ONCE = 2**20

# Digits of the longest length that is read; int() raises for thousands.
_DIGITS = 18

_BROKEN_OFF = "Response payload is not completed"
_NOTHING = memoryview(b"")


class Buffers:
    """Buffers of large bodies, each used again once its last reference is gone, that of an array included.

    Pages that the system has to clear first cost more than the whole handling of a large response.

    Args:
        most: bytes in all buffers together. It bounds the cost of a length that a server merely announces.
    """

    def __init__(self, most: int = 128 * 2**20) -> None:
        self._most = most
        self._kept: list[bytearray] = []

    def take(self, length: int) -> bytearray | None:
        """A buffer of that length with arbitrary content; None if all buffers would exceed the bound."""
        references = _references(self._kept)
        for place, count in enumerate(references):
            if count == _UNUSED and len(self._kept[place]) == length:
                return self._kept[place]
        if length + sum(map(len, self._kept)) > self._most:
            in_use = [place for place, count in enumerate(references) if count != _UNUSED]
            self._kept = [self._kept[place] for place in in_use]
            if length + sum(map(len, self._kept)) > self._most:
                return None
        self._kept.append(buffer := _uncleared(length))
        return buffer


def _uncleared(length: int) -> bytearray:
    """Return a bytearray of arbitrary content.

    Clearing a large one would hold up the event loop for 20 ms, or 200 under load. Its pages are taken as the body
    comes instead, by calls of the system that release the interpreter.
    """
    new = ctypes.pythonapi.PyByteArray_FromStringAndSize
    new.argtypes, new.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object
    buffer: bytearray = new(None, length)
    return buffer


def _references(buffers: list[bytearray]) -> list[int]:
    return [sys.getrefcount(buffer) for buffer in buffers]


_UNUSED = _references([bytearray(1)])[0]


class _Filling(asyncio.BufferedProtocol):
    """Replaces the protocol of a connection until ``rest`` is full."""

    def __init__(self, rest: memoryview, protocol: ResponseHandler) -> None:
        assert protocol.transport is not None
        self._rest = rest
        self._protocol = protocol
        self._transport = protocol.transport
        self.full = asyncio.get_running_loop().create_future()
        self._hand_over(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        # One call copies all that comes meanwhile, which a quick sender can draw out to tens of milliseconds.
        return self._rest[:_MOST_AT_ONCE]

    def buffer_updated(self, nbytes: int) -> None:
        self._rest = self._rest[nbytes:]
        if not self._rest:
            # aiohttp's parser still waits for these bytes, so a new one reads the rest of the connection.
            self._protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            self.end()
            if not self.full.done():
                self.full.set_result(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = _NOTHING
        self._protocol.connection_lost(exc)
        if not self.full.done():
            self.full.set_result(False)  # an error, with its traceback, would keep the buffer in use

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def end(self) -> None:
        """Give the connection back to its protocol."""
        if self._transport.get_protocol() is self and not self._transport.is_closing():
            self._hand_over(self._protocol)
            self._rest = _NOTHING  # TLS and uvloop keep a reference to the protocol that they had

    def _hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.pause_reading()  # uvloop chooses its way of reading when reading starts
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()


def length_of_large(response: aiohttp.ClientResponse | FastResponse) -> int:
    """The length of a body that is worth a buffer; 0 for any other."""
    headers = response.headers
    digits = headers.get(hdrs.CONTENT_LENGTH, "")
    if hdrs.TRANSFER_ENCODING in headers or len(digits) > _DIGITS or not (digits.isascii() and digits.isdigit()):
        return 0
    return length if (length := int(digits)) >= LARGE else 0


async def receive(response: aiohttp.ClientResponse | FastResponse, buffer: bytearray) -> None:
    """Fill ``buffer`` with the body, which has its length. Raises aiohttp's errors."""
    content, rest = response.content, memoryview(buffer)
    while part := content.read_nowait(-1):  # bytes that have come already, and those that wait in the parser
        rest[: len(part)] = part
        rest = rest[len(part) :]
    if not rest:
        return
    protocol = None if response.connection is None else response.connection.protocol
    if protocol is None or protocol.transport is None or protocol.transport.is_closing():
        raise aiohttp.ClientPayloadError(_BROKEN_OFF)
    filling = _Filling(rest, protocol)
    try:
        # The rest of the buffer holds bytes of an earlier response, which must not reach a codec.
        if not await filling.full:
            raise aiohttp.ClientPayloadError(_BROKEN_OFF)
        for _ in range(2):  # lets the loop read bytes beyond the body, which bar the connection from further use
            await asyncio.sleep(0)
    finally:
        filling.end()
    content.feed_eof()  # ends the response, so that its connection goes back to the pool
