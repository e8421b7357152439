"""An endpoint with several troubles at once, drawn at random, and the promises that a run in front of it keeps."""

from __future__ import annotations

import asyncio
from math import ceil, inf, log2
from pathlib import Path
from random import Random
from random import seed as seed_global
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fanout import Client, Limits, Response, RunStopped, Timeouts
from fanout.errors import ConnectError, IncompleteResponse
from fanout.testing import VirtualClock
from tests.simulator.capped import Measured

if TYPE_CHECKING:
    from fanout.results import Result
    from fanout.transport import Request

ABOUT_ROWS = ("400", "422", "500", "502", "disconnect", "timeout", "wrong count", "no JSON")
"""Signals of a row that cannot be answered."""

ABOUT_SIZE = ("400", "413", "500", "502", "disconnect", "timeout", "wrong count")
BY_CHANCE = ("429", "503", "500", "502", "disconnect", "wrong count")
"""Signals that a good request may get now and then."""

DOWN = ("500", "502", "503", "refused", "disconnect")


RECORDED = (*range(160), 301, 325, 646, 872, 963)
"""Seeds whose number of requests is recorded. The last ones are of few in which a 403 or the size of a part matters."""

_RECORD = Path(__file__).with_name("requests.json")


class Troubles(NamedTuple):
    """A scenario. All of it follows from one seed."""

    warm: bool
    """A row has been answered before."""
    n_rows: int
    chunk_rows: int
    concurrency: int
    latency: float
    most_rows: float
    most_bytes: float
    too_large: str
    bad: dict[int, str]
    """Row -> the signal with which every request fails that holds it."""
    chance: dict[str, float]
    """Signal -> share of the requests that get it for no reason."""
    slow: float
    """Share of the answers that take twenty times as long."""
    down: tuple[tuple[float, float, str], ...]
    """From when to when every request fails, and the signal."""

    @classmethod
    def drawn(cls, seed: int) -> Troubles:
        """Draw a scenario."""
        draw = Random(seed)
        n_rows, chunk_rows = draw.choice([1, 5, 40, 150, 400]), draw.choice([1, 2, 8, 32, 64])
        capped = draw.random() < 0.4
        n_bad = draw.choice([0, 0, 1, 2, 3, max(1, n_rows // 20)])
        where = draw.choice(["anywhere", "edges", "start", "end"])
        bad: dict[int, str] = {}
        signals = [draw.choice(ABOUT_ROWS)] if draw.random() < 0.7 else list(ABOUT_ROWS)
        for _ in range(n_bad if n_rows > 3 else 0):
            row = draw.randrange(n_rows)
            if where == "edges":
                start = row - row % chunk_rows
                row = draw.choice([start, min(start + chunk_rows, n_rows) - 1])
            elif where == "start":
                row = draw.randrange(min(n_rows, 1 + chunk_rows))
            elif where == "end":
                row = n_rows - 1 - draw.randrange(min(n_rows, 1 + chunk_rows))
            bad[row] = draw.choice(signals)
        if len(bad) > n_rows / 2:
            bad = dict(list(bad.items())[: n_rows // 2])
        warm = draw.random() < 0.8
        down: list[tuple[float, float, str]] = []
        at = draw.choice([0.0, 0.5, 3.0, 10.0])
        for _ in range(draw.choice([0, 0, 1, 2])):
            at += draw.uniform(0.0, 10.0)
            end = at + draw.choice([0.5, 5.0, 30.0] if down else [0.5, 5.0, 30.0, 100.0])
            # As long as nothing has succeeded, rows are to blame for a 500.
            down.append((at, end, draw.choice(DOWN if warm else DOWN[1:])))
            at = end + 50.0  # a row that fails in two outages, while others succeed in between, counts as bad
        by_chance = draw.choice(BY_CHANCE)
        # A row may meet the first two kinds twice in a row, and then counts as bad.
        share = draw.choice([0.0, 0.0, 0.002, 0.01] if by_chance in ("500", "wrong count") else [0.0, 0.0, 0.02, 0.04])
        return cls(
            warm=warm,
            n_rows=n_rows,
            chunk_rows=chunk_rows,
            concurrency=draw.choice([1, 1, 2, 2, 4, 16]),
            latency=draw.choice([0.05, 0.3, 1.0]),
            most_rows=draw.choice([1, 2, 5, 8, 24]) if capped and draw.random() < 0.6 else inf,
            most_bytes=draw.choice([600, 1500, 4000]) if capped else inf,
            too_large=draw.choice(ABOUT_SIZE),
            bad=bad,
            chance={by_chance: share} if share else {},
            slow=draw.choice([0.0, 0.0, 0.05]),
            down=tuple(down),
        )


class Troubled:
    """Serves a scenario, and counts the requests that it refuses, by cause."""

    def __init__(self, troubles: Troubles, seed: int) -> None:
        self.troubles = troubles
        self._draw = Random(seed)
        self.sent = 0
        self.idle = False
        """It has no trouble yet."""
        self.since = 0.0
        self.causes: dict[str, int] = {}

    async def send(self, sent: Request) -> Response:
        """Answer one request."""
        body = sent.joined()
        texts = orjson.loads(body)
        numbers = [int(text.split(" ", 1)[0]) for text in texts]
        self.sent += 1
        troubles, now = self.troubles, asyncio.get_running_loop().time()
        cause, signal = self._trouble(numbers, len(body), now)
        if signal == "refused":
            raise ConnectError("connection refused")
        slow = 20.0 if self._draw.random() < troubles.slow else 1.0
        for one in filter(None, (cause, "slow" if slow > 1 else "")):
            self.causes[one] = self.causes.get(one, 0) + 1
        await asyncio.sleep(troubles.latency * slow * self._draw.uniform(0.8, 1.2))
        if signal == "disconnect":
            raise IncompleteResponse("the server closed the connection before it had answered")
        if signal == "timeout":
            await asyncio.sleep(1e9)
        answers = [len(text) for text in texts]
        if signal == "wrong count":
            answers = [*answers, 1] if len(answers) == 1 else answers[:-1]
        if signal == "no JSON":
            return Response(status=200, headers={}, body=b"worker died")
        return _response(int(signal) if signal.isdecimal() else 200, answers)

    def _trouble(self, rows: list[int], n_bytes: int, now: float) -> tuple[str, str]:
        troubles = self.troubles
        if self.idle:
            return "", ""
        for start, end, signal in troubles.down:
            if start <= now - self.since < end:
                return "down", signal
        for signal, share in troubles.chance.items():
            if self._draw.random() < share:
                return "chance", signal
        if len(rows) > 1 and (len(rows) > troubles.most_rows or n_bytes > troubles.most_bytes):
            return "size", troubles.too_large
        for row in rows:
            if row in troubles.bad:
                return "row", troubles.bad[row]
        return "", ""


def _response(status: int, answers: Any) -> Response:
    return Response(status=status, headers={}, body=orjson.dumps(answers if status == 200 else {"error": "no"}))


class Seen(NamedTuple):
    """The end of a run."""

    result: Result
    stopped: RunStopped | None
    server: Troubled
    seconds: float


def run(seed: int, troubles: Troubles | None = None) -> Seen:
    """Run the scenario of a seed, or another one, on a clock that jumps."""
    troubles = troubles or Troubles.drawn(seed)
    draw = Random(seed)
    seed_global(seed)  # backoff and circuit breaker draw from it
    texts = [f"{row} {'x' * int(draw.lognormvariate(4, 1))}"[:500] for row in range(troubles.n_rows)]
    server = Troubled(troubles, seed)

    async def scenario() -> Seen:
        limits = Limits(concurrency=troubles.concurrency)
        stopped: RunStopped | None = None
        async with Client(
            "http://troubled/", codec=Measured, transport=server, timeouts=Timeouts(attempt=10), limits=limits,
            chunk_rows=troubles.chunk_rows,
        ) as client:  # fmt: skip
            if troubles.warm:
                server.idle = True
                await client.map(texts[:1])
                server.since = asyncio.get_running_loop().time()
                server.idle = False
            try:
                result = await client.map(texts, on_error="keep")
            except RunStopped as error:
                result, stopped = error.result, error
            return Seen(result, stopped, server, asyncio.get_running_loop().time())

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(scenario())


def faults(seen: Seen) -> list[str]:
    """The promises that a run broke."""
    troubles, result, broken = seen.server.troubles, seen.result, []
    if seen.stopped is not None and not result.ok.any() and seen.stopped.kind in ("rejected", "unreachable"):
        return []  # as long as nothing has succeeded, the request or the URL may be wrong
    if seen.stopped is not None:
        broken.append(f"stopped ({seen.stopped.kind}): {seen.stopped.reason[:100]}")
    parts: list[Any] = [*result.failures, *result.pending]
    absent = sum(part.stop - part.start for part in parts)
    if int(result.ok.sum()) + absent != troubles.n_rows:
        broken.append("rows were lost")
    bad = {row for failure in result.failures for row in range(failure.start, failure.stop)}
    # Before the first success the attempts alone decide, for the request or the URL may be wrong.
    if (good := sorted(bad - troubles.bad.keys())) and result.ok.any():
        broken.append(f"good rows failed: {good[:8]}")
    if not troubles.down and troubles.most_rows == troubles.most_bytes == inf and seen.stopped is None:
        chunks = troubles.warm + ceil(troubles.n_rows / troubles.chunk_rows)
        # Beyond its own attempts, each bad row costs those that find it, and one at the end of the run may cost more.
        each = 5 + 2 * ceil(log2(troubles.chunk_rows)) + 2
        by_chance = seen.server.causes.get("chance", 0) + seen.server.causes.get("slow", 0)
        most = chunks + len(troubles.bad) * each + 3 * by_chance + 20 * bool(troubles.bad)
        if seen.server.sent > most:
            broken.append(f"{seen.server.sent} requests, at most {most} expected")
    if seen.stopped is None and (answered := sorted(troubles.bad.keys() - bad)):
        broken.append(f"bad rows were answered: {answered}")
    return broken


def recorded() -> dict[int, int]:
    """Seed -> requests, as they were when the record was written."""
    return {int(seed): sent for seed, sent in orjson.loads(_RECORD.read_bytes()).items()}


if __name__ == "__main__":
    counts = {str(seed): run(seed).server.sent for seed in RECORDED}
    _RECORD.write_bytes(orjson.dumps(counts) + b"\n")
