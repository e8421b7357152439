"""A server of predictions that take a while, in the manner of Replicate's: a POST creates one, GETs show its state."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = """
[input]
path = "in.csv"
id = "id"

[endpoint]
url = "{url}/v1/predictions"

[auth]
token = "secret-token"

[codec]
request = { version = "v", input = { n = "{{n}}" } }
outputs.double = { path = "@", type = "float64" }
fail_when = "status == 'failed'"

[codec.poll]
url = "urls.get"
until = "status == 'succeeded' || status == 'failed' || status == 'canceled'"
result = "output"
every = {every}
timeout = 30

[limits]
concurrency = 4

[retry]
max_attempts = 3
initial_backoff = 0.01

[output]
path = "out.jsonl"
"""


OF_SEVERAL_ROWS = 'request = { version = "v", input = { n = "{{rows}}" } }\nitem = "{{n}}"'
"""In place of the request in `JOB`: one prediction for all rows of a chunk."""


def table(n: int) -> str:
    """An input with the ids r0, r1, ... and the numbers 0, 1, ..."""
    return "id,n\n" + "".join(f"r{i},{i}\n" for i in range(n))


class Predictions:
    """Doubles numbers, one or a list, after ``polls`` GETs that say "processing".

    Attributes:
        created: the numbers in the predictions, in the order of the POSTs.
        trouble: returns a response in place of the state, given how many GETs the prediction has had; None for none.
        get_url: the URL of a prediction, given that of the server and its id.
    """

    def __init__(self, polls: int = 2) -> None:
        self.polls = polls
        self.created: list[float] = []
        self.gets: dict[str, int] = {}
        self.credentials: list[tuple[str, str | None]] = []
        self.trouble: Callable[[int], web.Response | None] = lambda _: None
        self.get_url: Callable[[str, str], str] = lambda origin, name: f"{origin}/v1/predictions/{name}"
        self.fails: Callable[[float], bool] = lambda _: False
        self.in_flight = self.most_in_flight = self.most_open = 0
        self.ended: set[str] = set()
        self.asked = asyncio.Event()
        self._numbers: dict[str, float | list[float]] = {}
        self._names = (f"p{number}" for number in itertools.count())

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.set()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            return await (self._create(request) if request.method == "POST" else self._state(request))
        finally:
            self.in_flight -= 1

    async def _create(self, request: web.Request) -> web.Response:
        numbers = (await request.json())["input"]["n"]
        name = next(self._names)
        self.created += numbers if isinstance(numbers, list) else [numbers]
        self._numbers[name], self.gets[name] = numbers, 0
        self.most_open = max(self.most_open, len(self._numbers) - len(self.ended))
        return web.json_response(self._document(request, name, "starting"), status=201)

    async def _state(self, request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        self.credentials.append((request.host, request.headers.get("Authorization")))
        if name not in self._numbers:
            return web.json_response({"detail": "no such prediction"}, status=404)
        self.gets[name] += 1
        if (trouble := self.trouble(self.gets[name])) is not None:
            return trouble
        if self.gets[name] <= self.polls:
            return web.json_response(self._document(request, name, "processing"))
        self.ended.add(name)
        numbers = self._numbers[name]
        if not isinstance(numbers, list) and self.fails(numbers):
            failed = self._document(request, name, "failed") | {"error": "the number is unlucky"}
            return web.json_response(failed)
        return web.json_response(self._document(request, name, "succeeded") | {"output": _doubled(numbers)})

    def _document(self, request: web.Request, name: str, status: str) -> dict[str, object]:
        origin = f"http://{request.host}"
        return {"id": name, "status": status, "output": None, "urls": {"get": self.get_url(origin, name)}}


def _doubled(numbers: float | list[float]) -> float | list[float]:
    return [2 * number for number in numbers] if isinstance(numbers, list) else 2 * numbers
