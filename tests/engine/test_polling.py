"""Jobs of asynchronous APIs in virtual time: no GET comes before the server wants it, and none after the run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from multidict import CIMultiDict

from fanout import Client, Limits, Response
from fanout.codecs import Json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
X = np.arange(4.0)
POLL = {"url": "get", "until": "output", "result": "output", "timeout": 10_000.0}
CODEC = Json(request={"n": "{{row}}"}, outputs={"double": "@"}, poll=POLL)


class Jobs:
    """Doubles numbers. Scripted responses come first, those of a POST or of the GETs of one number."""

    def __init__(self) -> None:
        self.created: Mapping[str, str] = {}
        """Header fields of a response to a POST."""

        self.states: dict[float, list[tuple[int, Mapping[str, str]]]] = {}
        """Status and header fields of the responses to the first GETs for a number."""

        self.times: dict[tuple[str, float], list[float]] = {}

    async def send(self, request: Request) -> Response:
        document: dict[str, object]
        if request.method == "POST":
            number = json.loads(request.joined())["n"]
            status, headers, document = 202, self.created, {"get": f"/jobs/{number}"}
        else:
            number = float(request.url.rpartition("/")[2])
            script = self.states.get(number, [])
            status, headers = script.pop(0) if script else (200, {})
            document = {} if script or headers else {"output": 2 * number}
        self.times.setdefault((request.method, number), []).append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        body = json.dumps(document).encode()
        return Response(status=status, headers=CIMultiDict(headers), body=body, url=request.url)


async def run(jobs: Jobs) -> None:
    limits = Limits(concurrency=2)
    async with Client("http://jobs.test/", codec=CODEC, limits=limits, transport=jobs, chunk_rows=1) as client:
        assert (await client.map(X)).tolist() == (2 * X).tolist()


@pytest.mark.parametrize(
    "field",
    [
        {"Retry-After": "900"},
        {"retry-after-ms": "900000"},
        {"Date": "Mon, 30 Nov 2026 12:00:00 GMT", "Retry-After": "Mon, 30 Nov 2026 12:15:00 GMT"},
    ],
)
@pytest.mark.parametrize("place", ["the response to a POST", "the state of a job"])
async def test_no_get_comes_before_the_time_that_a_response_states(field: Mapping[str, str], place: str) -> None:
    jobs = Jobs()
    if place == "the response to a POST":
        jobs.created = field
    else:
        jobs.states = {number: [(200, field)] for number in X.tolist()}
    await run(jobs)
    for number in X.tolist():
        before, after = [*jobs.times["POST", number], *jobs.times["GET", number]][-2:]
        assert after - before >= 900


async def test_a_get_that_is_refused_for_its_rate_bars_every_request() -> None:
    jobs = Jobs()
    jobs.states = {0.0: [(429, {"Retry-After": "60"})]}
    await run(jobs)
    times = sorted(time for each in jobs.times.values() for time in each)
    refused = jobs.times["GET", 0.0][0]
    # Another request may have been in flight when the refusal came.
    assert not [time for time in times if refused + 0.01 < time < refused + 60]


async def test_a_cancelled_run_leaves_no_task_and_sends_no_get() -> None:
    jobs = Jobs()
    jobs.created = {"Retry-After": "1000"}
    before = asyncio.all_tasks()
    task = asyncio.create_task(run(jobs))
    await asyncio.sleep(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    await asyncio.sleep(5000)
    assert {method for method, _ in jobs.times} == {"POST"}
