"""An endpoint with a hidden cap on the size of requests, and a client that is measured in front of it."""

from __future__ import annotations

import asyncio
from random import seed as seed_global
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import orjson

from fanout import Client, Codec, Payload, Response, Timeouts
from fanout.errors import ConnectError, IncompleteResponse
from fanout.testing import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.results import Result
    from fanout.transport import Request

TooLarge: TypeAlias = "Callable[[list[str], int], bool]"
"""Whether a request with these rows, in a body of so many bytes, is too large."""

SIGNALS = ("400", "413", "500", "502", "disconnect", "timeout", "wrong count")


class Measured(Codec):
    """Texts in a JSON list; the answer is the length of each."""

    name = "measured"
    path = "/"

    def encode(self, rows: Any) -> Payload:
        return Payload(body=orjson.dumps(list(rows)))

    def decode(self, response: Response, n_rows: int) -> Any:
        return np.array(response.json(), float)


def words(row: str) -> int:
    """Tokens of a row, as the endpoints here count them."""
    return row.count(" ") + 1


class Capped:
    """Serves requests that are not too large, after some time; to the others it answers with its signal.

    Args:
        bad: rows that are refused, in however small a request.
        noise: share of the requests that are refused for no reason.
        down: from when to when every exchange breaks off.
    """

    def __init__(
        self,
        too_large: TooLarge,
        signal: str,
        *,
        bad: frozenset[str] = frozenset(),
        noise: float = 0.0,
        down: tuple[float, float] = (0.0, 0.0),
        latency: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.too_large = too_large
        self._signal = signal
        self._bad = bad
        self._noise = noise
        self._down = down
        self._latency = latency
        self.seed = seed
        self._random = np.random.default_rng(seed)
        self.sent: list[tuple[int, int]] = []
        """Rows and bytes of every request."""

        self.refused = 0

    async def send(self, sent: Request) -> Response:
        body = sent.joined()
        rows = orjson.loads(body)
        self.sent.append((len(rows), len(body)))
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._latency * self._random.uniform(0.8, 1.2))
        if self._down[0] <= now < self._down[1]:
            raise ConnectError("connection refused") if self._random.random() < 0.5 else IncompleteResponse("broke off")
        noisy = self._random.random() < self._noise
        if noisy or self.too_large(rows, len(body)) or any(row in self._bad for row in rows):
            self.refused += 1
            return await self._refusal(rows)
        return self._reply(200, [len(row) for row in rows])

    async def _refusal(self, rows: list[str]) -> Response:
        if self._signal == "disconnect":
            raise IncompleteResponse("the server closed the connection before it had answered")
        if self._signal == "timeout":
            await asyncio.sleep(1e9)
        if self._signal == "one row":
            return self._reply(200, [len(rows[0])])
        if self._signal == "wrong count":
            return self._reply(200, [len(row) for row in rows[:-1]])
        return self._reply(int(self._signal), {"error": "no"})

    @staticmethod
    def _reply(status: int, body: Any) -> Response:
        return Response(status=status, headers={}, body=orjson.dumps(body))


class Seen(NamedTuple):
    result: Result
    server: Capped
    seconds: float

    @property
    def requests(self) -> int:
        return len(self.server.sent)


def run(server: Capped, rows: Sequence[str], **options: Any) -> Seen:
    """One run over ``rows``, on a clock that jumps."""
    seed_global(server.seed)  # backoff and circuit breaker draw from it

    async def scenario() -> Seen:
        patience = Timeouts(attempt=20)
        async with Client("http://capped/", codec=Measured, transport=server, timeouts=patience, **options) as client:
            result = await client.map(list(rows), on_error="keep")
            return Seen(result, server, asyncio.get_running_loop().time())

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(scenario())


def texts(n: int, seed: int = 0, *, median: float = 300.0, sigma: float = 0.8, most: int = 4000) -> list[str]:
    """Texts of mixed lengths, and with words of mixed lengths: some languages have longer ones."""
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(np.log(median), sigma, n), 10, most).astype(int)
    shares = draw.random(n)
    return [f"{i} {_words(int(length), share)}" for i, (length, share) in enumerate(zip(lengths, shares, strict=True))]


def _words(length: int, share: float) -> str:
    """Words of 3 letters, and a share of 5."""
    n_long = round(10 * share)
    return (("xxxxx " * n_long + "xxx " * (10 - n_long)) * (length // 40 + 1))[:length]
