"""Jobs in a temporary folder, against a real HTTP server that doubles numbers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

JOB = """
[input]
path = "x.npy"

[endpoint]
url = "{url}"

[codec]
name = "json"

[chunks]
rows = 4

[retry]
max_attempts = 2
initial_backoff = 0.01

[output]
path = "out/y.npy"
"""

REVIEWS_JOB = """
[input]
path = "reviews.csv"
column = "text"

[endpoint]
url = "{url}/score"

[codec]
name = "json"
request = {{ texts = "{{{{rows}}}}" }}
answers = "scores"

[chunks]
rows = 2

[retry]
max_attempts = 1

[output]
path = "scores.csv"
keep = ["id", "stars"]
rename = {{ value = "score" }}
"""


@dataclass
class Doubler:
    """Answers every number with its double; rows below ``lowest`` make a request fail with 422."""

    url: str = ""
    requests: int = 0
    status: int = 200
    lowest: float = 0.0
    answer: Callable[[list[float]], list[object]] = lambda rows: [2 * row for row in rows]
    before_answer: Callable[[int], Awaitable[object]] | None = None
    """Awaited with the number of the request before it is answered."""
    headers: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.headers = dict(request.headers)
        number = self.requests
        rows = (await request.json())["instances"]
        if self.before_answer is not None:
            await self.before_answer(number)
        if self.status != 200:
            return web.Response(status=self.status, text="no")
        if any(row < self.lowest for row in rows):
            return web.Response(status=422, text=f"a row is below {self.lowest:g}")
        return web.json_response({"predictions": self.answer(rows)})


@asynccontextmanager
async def served(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Answer every request on a free port with ``handle``; gives the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await asyncio.wait_for(runner.cleanup(), 5)


@asynccontextmanager
async def doubling() -> AsyncIterator[Doubler]:
    """Run the server; gives its state."""
    model = Doubler()
    async with served(model.handle) as url:
        model.url = f"{url}/predict"
        yield model


@pytest_asyncio.fixture
async def doubler():
    """The server in the loop of the test."""
    async with doubling() as model:
        yield model


@pytest.fixture
def write_job(tmp_path: Path):
    """Writes a job file and its input; returns the job file's path."""

    def write(text: str = JOB, rows: np.ndarray | None = None, url: str = "local://digits") -> Path:
        np.save(tmp_path / "x.npy", np.arange(10.0) if rows is None else rows)
        (tmp_path / "job.toml").write_text(text.replace("{url}", url), "utf-8")
        return tmp_path / "job.toml"

    return write
