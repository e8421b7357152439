"""The server's end of one connection: reads requests as HTTP has them, and sends exactly the bytes it is given."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fanout.serving.exchange import ServerRequest, cannot_listen

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

# Most bytes of a request's header; also the most that is buffered of a body before it is read.
_LONGEST_HEAD = 2**20

_PIECE = 2**16


@dataclass
class Traffic:
    """Bytes that went over all connections of a server."""

    received: int = 0
    sent: int = 0


class Connection:
    """One connection, as the actions of faults use it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, traffic: Traffic) -> None:
        self.doomed = False
        """The connection is to end as soon as another request begins on it."""

        self._reader = reader
        self._writer = writer
        self._traffic = traffic

    @classmethod
    async def accepted(cls, peer: socket.socket, tls: ssl.SSLContext | None, traffic: Traffic) -> Connection:
        """The connection of a socket that was accepted. Raises `OSError` if the client and ``tls`` do not agree."""
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LONGEST_HEAD, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, peer, ssl=tls)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop), traffic)

    async def head(self) -> ServerRequest | None:
        """The next request without its body, once its header is there; None at the end of the connection."""
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return None
        # Counted on the wire, so that tests can require that not a byte was sent.
        self._traffic.received += len(raw)
        first, *fields = raw.decode("latin-1").strip().split("\r\n")
        method, _, rest = first.partition(" ")
        headers = {name: value.strip() for name, _, value in (field.partition(":") for field in fields)}
        return ServerRequest(method=method, path=rest.partition(" ")[0], headers=headers)

    async def whole(self, head: ServerRequest) -> ServerRequest:
        """The request with its body. Raises `ConnectionError` if the client goes before its end."""
        # Such a client sends the body only after this.
        if head.header("Expect"):
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if "chunked" in (head.header("Transfer-Encoding") or ""):
                body = b"".join([piece async for piece in self._chunks()])
            else:
                body = await self._reader.readexactly(int(head.header("Content-Length") or 0))
        except (asyncio.IncompleteReadError, ValueError):
            raise ConnectionAbortedError("the request has no end") from None
        self._traffic.received += len(body)
        return replace(head, body=body).uncompressed()

    async def send(self, *parts: bytes) -> None:
        """Send the parts, each as soon as the one before has left. Raises `ConnectionError` if the client is gone."""
        for part in parts:
            self._writer.write(part)
            self._traffic.sent += len(part)
            await self._writer.drain()

    def close(self) -> None:
        """End the connection with a FIN, once all is sent."""
        self._writer.close()

    def reset(self) -> None:
        """End the connection with a RST."""
        peer: socket.socket = self._writer.get_extra_info("socket")
        if peer.fileno() >= 0:  # another fault may have ended it already
            # A linger time of 0 turns the close into a RST.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def abandon(self) -> None:
        """End the connection at once, and discard unsent bytes."""
        self._writer.transport.abort()

    async def half_close(self) -> None:
        """Send a FIN, and read until the client closes, so that no RST discards sent bytes."""
        self._writer.write_eof()
        await self.gone()

    async def gone(self) -> None:
        """Wait until the client ends the connection."""
        with suppress(ConnectionError):
            while await self._reader.read(_PIECE):
                pass

    async def end(self) -> None:
        """Close the connection, and wait until all is sent; if cancelled, discard the rest."""
        try:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()
        finally:
            self.abandon()

    @property
    def closed(self) -> bool:
        """True once the connection is ended from this side, or lost."""
        return self._writer.is_closing()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening. Others may be bound to it as well, as long as one listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            # The listener binds the address a second time, while the holder keeps it.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        raise cannot_listen(host, port, error) from error
    return bound
