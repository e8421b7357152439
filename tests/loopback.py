"""A raw asyncio server on the loopback interface: it sends exactly the bytes that a test gives it, right or wrong."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable


@dataclass
class Received:
    """One request as it came over the wire."""

    line: str
    headers: dict[str, str]
    """Names in lower case."""

    body: bytes
    connection: int
    """Which connection of the server it came on, from 0."""


class Line:
    """The server's end of one connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    def close(self) -> None:
        """End the connection with a FIN."""
        self._writer.close()

    def reset(self) -> None:
        """End the connection with a RST."""
        peer: socket.socket = self._writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    @property
    def closed(self) -> bool:
        return self._writer.is_closing()


@dataclass
class Loopback:
    """The connections and requests of a running server."""

    url: str
    requests: list[Received] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    @property
    def connections(self) -> int:
        return len(self.lines)


def http(body: bytes = b"", *, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A whole answer, framed by Content-Length."""
    fields = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body


def chunked(*chunks: bytes, end: bool = True, headers: str = "") -> bytes:
    """An answer in chunks, with its last chunk or without."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    return head + body + (b"0\r\n\r\n" if end else b"")


@asynccontextmanager
async def loopback(
    answer: Callable[[Received, Line], Awaitable[None]] | bytes, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Loopback]:
    """A server that calls ``answer`` with every request, or sends it, if it is bytes, in answer to each."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        line = Line(writer)
        number = len(seen.lines)
        seen.lines.append(line)
        try:
            while (received := await _read(reader, number)) is not None:
                seen.requests.append(received)
                if isinstance(answer, bytes):
                    await line.send(answer)
                else:
                    await answer(received, line)
        except ConnectionError:
            pass  # the client had enough
        finally:
            writer.close()

    tasks: set[asyncio.Task[None] | None] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    seen = Loopback(f"{'https' if tls else 'http'}://{host}:{port}/model")
    try:
        yield seen
    finally:
        server.close()
        for line in seen.lines:
            line.close()
        if tasks:
            await asyncio.wait([task for task in tasks if task is not None])
        await asyncio.sleep(0)  # the sockets close one turn of the loop after their ends


async def _read(reader: asyncio.StreamReader, connection: int) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *fields = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Received(first, headers, body, connection)
