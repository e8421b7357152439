"""Endpoints that are functions, in virtual time: each answers, fails or hangs in its own way."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout import Client, Event, Limits, Response
from fanout.errors import ConnectError
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request

X = np.arange(2000.0).reshape(1000, 2)


class Fleet:
    """A transport behind which any number of endpoints answer, ``http://NAME/m``, each in its own way."""

    def __init__(self, **hosts: Callable[[Request], Any]) -> None:
        self._hosts = hosts
        self.sent: list[tuple[float, str]] = []
        self.events: list[Event] = []

    async def send(self, sent: Request) -> Response:
        name = sent.url.split("/")[2]
        self.sent.append((asyncio.get_running_loop().time(), name))
        return await self._hosts[name](sent)

    def client(self, **options: Any) -> Client:
        options = {"chunk_rows": 1, "limits": Limits(concurrency=16), **options}
        return Client(
            [f"http://{name}/m" for name in self._hosts], codec=options.pop("codec", Plain), transport=self,
            on_event=self.events.append, **options,
        )  # fmt: skip

    async def run(self, rows: np.ndarray = X, **options: Any) -> Any:
        async with self.client(**options) as client:
            return await client.map(rows, on_error="keep")

    @property
    def took(self) -> float:
        return self.sent[-1][0] - self.sent[0][0]

    @property
    def shares(self) -> Counter[str]:
        return Counter(name for _, name in self.sent)

    def kinds(self) -> Counter[str]:
        return Counter(event.kind for event in self.events if event.kind not in ("done", "retry"))


def served(seconds: float = 0.1, factor: float = 2.0) -> Callable[[Request], Any]:
    async def answer(sent: Request) -> Response:
        await asyncio.sleep(seconds)
        rows = np.array(orjson.loads(sent.joined())["instances"]) * factor
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": rows.tolist()}))

    return answer


def says(status: int, headers: dict[str, str] | None = None, seconds: float = 0.01) -> Callable[[Request], Any]:
    async def answer(sent: Request) -> Response:
        await asyncio.sleep(seconds)
        return Response(status=status, headers=headers or {}, body=b"no")

    return answer


async def dead(sent: Request) -> Response:
    raise ConnectError("connection refused")


def changing(
    *parts: tuple[float, Callable[[Request], Any]], last: Callable[[Request], Any]
) -> Callable[[Request], Any]:
    """Behaves like each part until its time, then like ``last``."""

    async def answer(sent: Request) -> Response:
        now = asyncio.get_running_loop().time()
        return await next((part for until, part in parts if now < until), last)(sent)

    return answer
