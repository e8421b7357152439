"""Row 65 of the fault matrix: text of a server that would hold the loop, or fill the memory, read as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fanout import RunStopped
from tests.faults.scene import CHUNKS, X, assert_whole, client
from tests.loopback import http, loopback

if TYPE_CHECKING:
    from tests.loopback import Line, Received

MANY = 2**20
OBJECTS = b'{"predictions":[' + b"{}," * (24 * 2**20 // 3) + b"{}]}"


def usage_of(names: int) -> bytes:
    return b'{"usage":{' + b",".join(b'"n%d":1' % i for i in range(names)) + b'},"data":[1]}'


FIRST = {
    "digits in a rate limit": http(
        b"", status=429, headers={"RateLimit": "1" * 8000, "x-ratelimit-reset-tokens": "1" * 8000, "Retry-After": "0"}
    ),
    "digits in a header": http(b"", status=503, headers={"Retry-After": "1" * 8000, "Date": "1" * 8000}),
    "digits in an error": http(
        b'{"error":{"message":"no","details":[{"retryDelay":"%s"}]}}' % (b"1" * 20_000), status=503
    ),
    "a MiB of digits in an error": http(b"1" * MANY, status=500),
    "24 MiB of objects": http(OBJECTS),
    "24 MiB of lists": http(b"[" * (24 * 2**20)),
    "400,000 names in usage": http(usage_of(400_000)),
    "digits in an answer": http(b'{"predictions":[' + b"1" * MANY + b"]}"),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
async def test_row_65_text_of_any_length_is_an_invalid_answer_at_worst(first: bytes) -> None:
    received = 0

    async def answer(request: Received, line: Line) -> None:
        nonlocal received
        received += 1
        rows: list[Any] = orjson.loads(request.body)["instances"]
        right = http(orjson.dumps({"predictions": [[2 * value for value in row] for row in rows]}))
        await line.send(first if received == 3 else right)

    async with loopback(answer) as server, client(server.url, cap=2**26) as c:
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert received == CHUNKS + 1


async def test_row_65_metadata_of_any_length_stops_the_run_at_worst() -> None:
    async def answer(request: Received, line: Line) -> None:
        await line.send(http(OBJECTS))

    async with loopback(answer) as server, client(server.url + "/v2/models/m/infer", codec="oip", cap=2**26) as c:
        with pytest.raises(RunStopped, match="1,048,576"):
            await c.map(X)
