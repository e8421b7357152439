"""The project's own static server, used without nginx, and if requests are to fail or rows to be counted.

``python -m benchmarks.servers.static '{"fail_share": 0.1}'`` prints its port and runs until stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np

from benchmarks.place import ROOT, environment
from benchmarks.servers import NotStarted, Served
from benchmarks.workloads import Page, site, workload_named

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD_END = b"\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
_UNKNOWN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def running(served: Served) -> Iterator[str]:
    """Run the server as a child process and return its origin."""
    command = [sys.executable, "-m", "benchmarks.servers.static", json.dumps(asdict(served))]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the command alone, which ends the server
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        if not port:
            raise NotStarted("the static server does not start; its error is above")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.wait()


class Failing:
    """Selects the requests that fail: a share of them, evenly spread, the same ones every time."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._owed = 0.0

    def next(self) -> bool:
        """Return True if the next request fails."""
        self._owed += self._share
        if self._owed < 1:
            return False
        self._owed -= 1
        return True


class Pages:
    """The responses, ready to be written."""

    def __init__(self, served: Served) -> None:
        self._failing = Failing(served.fail_share)
        self._whole = {path.encode(): _http(page) for path, page in site().items()}
        self._counted = workload_named("W1").url_path.encode() if served.by_rows else b""

    def answer(self, path: bytes, body: memoryview) -> bytes:
        """Return the bytes of the response to one request."""
        if self._failing.next():
            return _BUSY
        if path == self._counted:
            # {"instances": [[...], [...]]}: one bracket for the list and one for each row.
            return _rows_of_w1(bytes(body).count(b"[") - 1)
        return self._whole.get(path, _UNKNOWN)


class Connection(asyncio.Protocol):
    """One connection: reads a complete request, responds, and reads the next one."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._received = bytearray()
        self._needed = 0
        self._path = b""
        self._start = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for responses."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Respond to every complete request."""
        self._received += data
        while self._complete():
            with memoryview(self._received) as view, view[self._start : self._needed] as body:
                answer = self._pages.answer(self._path, body)
            del self._received[: self._needed]
            self._needed = 0
            self._transport.write(answer)

    def _complete(self) -> bool:
        if not self._needed:
            end = self._received.find(_HEAD_END)
            if end < 0:
                return False
            first, *fields = bytes(self._received[:end]).split(b"\r\n")
            self._path = first.split(b" ")[1]
            self._start = end + len(_HEAD_END)
            self._needed = self._start + _content_length(fields)
        return len(self._received) >= self._needed


def _content_length(fields: list[bytes]) -> int:
    return next((int(field[15:]) for field in fields if field[:15].lower() == b"content-length:"), 0)


def _http(page: Page) -> bytes:
    fields = {"Content-Type": page.content_type, "Content-Length": str(len(page.body)), **page.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + page.body


@cache
def _rows_of_w1(n: int) -> bytes:
    rows = np.repeat(workload_named("W1").answer, n, axis=0)
    return _http(Page(body=json.dumps({"predictions": rows.tolist()}).encode()))


async def _serve(served: Served) -> None:
    loop = asyncio.get_running_loop()
    pages = Pages(served)
    listening = await loop.create_server(lambda: Connection(pages), "127.0.0.1", 0)
    async with listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)  # ends when the parent process ends


if __name__ == "__main__":
    asyncio.run(_serve(Served(**json.loads(sys.argv[1]))))
