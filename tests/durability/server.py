"""The model of the runs that are killed, in a process of its own: it doubles rows, and notes which run sent each.

``python -m tests.durability.server SECONDS`` takes so long for an answer, and prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import numpy as np
import orjson

from tests.durability.work import WIDTH

_Asked = dict[str, list[tuple[int, int]]]


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    asked: _Asked,
    arrived: asyncio.Condition,
    seconds: float,
) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if first.startswith("GET"):
                run, requests = headers.get("x-run", ""), int(headers.get("x-wait", "0"))
                async with arrived:
                    await arrived.wait_for(lambda: len(asked.get(run, ())) >= requests)  # noqa: B023 - called here alone
                status, answer = 200, orjson.dumps(asked)
            else:
                status, answer = _answer(body, headers, asked)
                async with arrived:
                    arrived.notify_all()
                await asyncio.sleep(seconds)
            writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)) + answer)
            await writer.drain()
    writer.close()


def _answer(body: bytes, headers: dict[str, str], asked: _Asked) -> tuple[int, bytes]:
    rows = np.frombuffer(body, "<f4").reshape(-1, int(headers.get("x-width", WIDTH)))
    asked.setdefault(headers.get("x-run", ""), []).append((int(rows[0, 0]), int(rows[-1, 0]) + 1))
    refused = {float(row) for row in headers.get("x-refused", "").split(",") if row}
    if refused & set(rows[:, 0].tolist()):
        return 422, b"no"
    return 200, (rows * np.float32(2)).tobytes()


async def _main(seconds: float) -> None:
    asked: _Asked = {}
    arrived = asyncio.Condition()
    server = await asyncio.start_server(lambda r, w: _serve(r, w, asked, arrived, seconds), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:  # which ends with its parent, however that ends
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
