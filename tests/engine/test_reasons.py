"""Reasons count rows from the first row of the input, as everything else about a failure does."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from fanout import Client, EncodeError, InvalidResponse, Limits, codec
from fanout.testing import MockEndpoint
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(300.0).reshape(100, 3)


@pytest.mark.parametrize("bad", [0, 5, 70, 99])
@pytest.mark.parametrize("value", [None, "text", True, [1.0]])
async def test_a_row_that_an_answer_got_wrong(bad: int, value: Any) -> None:
    from fanout.testing import Scripted

    def wrong(request: Any) -> Scripted:
        values = [value if row[0] == 3 * bad else 1.0 for row in request.json()["instances"]]
        return Scripted(body=orjson.dumps({"predictions": values}))

    with MockEndpoint(lambda x: x, faults=wrong) as mock:
        async with Client(
            mock.url("json"), codec=codec("json", dtype="float64"), chunk_rows=16, limits=Limits(concurrency=1)
        ) as client:
            result = await client.map(X, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [bad]
    (failure,) = result.failures
    if "row " in failure.reason:
        assert f"row {bad} " in failure.reason
    assert f"row {bad}: " in str(failure)


async def test_rows_of_a_chunk_that_was_not_split() -> None:
    class Odd(Plain):
        def decode(self, response: Any, n_rows: int) -> Any:
            if n_rows == 4 and (values := super().decode(response, n_rows))[0, 0] < 100:
                return values
            raise InvalidResponse("row 2 holds much, row 1 does not, row 3 neither", rows=(2, 1))

    with MockEndpoint(lambda x: x) as mock:
        mock.script(None, None, None)
        events: list[Any] = []
        async with Client(mock.url(Plain), codec=Odd, chunk_rows=4, on_event=events.append) as client:
            await client.map(X, on_error="keep")
    (first, *_) = [event for event in events if event.kind == "retry"]
    assert f"row {first.start + 2} holds much, row {first.start + 1} does not, row 3 neither" in first.reason


async def test_a_row_that_a_codec_cannot_express() -> None:
    class Picky(Plain):
        def encode(self, rows: Any) -> Any:
            if bad := [i for i, row in enumerate(rows) if row[0] % 30 == 0]:
                raise EncodeError(f"row {bad[0]} is a multiple of 30", rows=bad[:1])
            return super().encode(rows)

    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Picky, chunk_rows=16) as client:
            result = await client.map(X, on_error="keep")
    assert [failure.reason for failure in result.failures] == [
        f"cannot be sent: row {row} is a multiple of 30" for row in range(0, 100, 10)
    ]


@pytest.mark.parametrize("n_good", [0, 1, 50])
async def test_each_of_several_rows_that_a_template_cannot_express_has_its_own_reason(n_good: int) -> None:
    rows = [{"n": "good"}] * n_good + [{"n": None}, {"n": b"x"}, {"m": "x"}, {"n": None}]
    template = codec("json", request={"instances": "{{rows}}"}, item="a {{n}}", answers="predictions", dtype="float64")
    with MockEndpoint(lambda texts: np.ones(len(texts))) as mock:
        async with Client(mock.url("json"), codec=template, chunk_rows=100) as client:
            result = await client.map(rows, on_error="keep")
    assert [len(result.failures), result.ok.sum(), len(mock.requests)] == [4, n_good, n_good > 0]
    reasons = [failure.reason for failure in sorted(result.failures, key=lambda failure: failure.start)]
    assert ["no value" in reasons[0], "bytes" in reasons[1], "has no 'n'" in reasons[2]] == [True] * 3
    assert reasons[3] == reasons[0]
    assert not any(";" in reason for reason in reasons)


async def test_the_words_of_a_server_stay_as_they_are() -> None:
    from fanout.serving.exchange import StatusError

    def model(x: Any) -> Any:
        if (x == X[5]).all(axis=1).any():
            raise StatusError(418, "row 0 is no tea")
        return x

    with MockEndpoint(model) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=16, limits=Limits(concurrency=1)) as client:
            result = await client.map(X, on_error="keep")
    assert [(failure.start, failure.reason) for failure in result.failures] == [(5, "HTTP 418: row 0 is no tea")]
