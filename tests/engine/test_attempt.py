"""One attempt reads the cost from a response, beside the values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, DecodedResponse, InvalidResponse, RetryPolicy, RowsFailed
from fanout.testing import MockEndpoint, Scripted
from tests.support import Plain

if TYPE_CHECKING:
    from fanout import Response

pytestmark = pytest.mark.virtual_time
X = np.arange(20.0)


class Priced(Plain):
    """Each response costs one unit for each prediction, and one for the request."""

    def decode(self, response: Response, n_rows: int) -> Any:
        values = super().decode(response, n_rows)
        return DecodedResponse(values, usage={"values": len(values), "requests": 1})


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


async def test_usage_is_summed_up_and_the_values_are_those_of_the_answer() -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Priced, chunk_rows=8) as client:
            first = await client.map(X, on_error="keep")
            await client.map(X[:2])
            assert np.array_equal(first.values, X * 2)
            assert first.stats.usage == {"values": 20, "requests": 3}
            assert client.statistics().usage == {"values": 22, "requests": 4}


async def test_an_answer_that_fails_the_proof_has_been_paid_for_too() -> None:
    with MockEndpoint(double) as mock:
        mock.script(Scripted(body=b'{"predictions": [1.0]}'))
        async with Client(mock.url(Plain), codec=Priced) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().usage == {"values": 21, "requests": 2}


async def test_a_response_that_cannot_be_decoded_may_report_its_cost() -> None:
    class Refused(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            raise InvalidResponse("no", usage={"requests": 1})

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Refused, retry=RetryPolicy(max_attempts=1)) as client:
            result = await client.map(X[:1], on_error="keep")
    assert result.failures
    assert result.stats.usage == {"requests": 1}


async def test_bare_values_cost_nothing() -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            assert (await client.map(X, on_error="keep")).stats.usage == {}


async def test_a_usage_that_is_no_count_is_the_codecs_mistake() -> None:
    class Wrong(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            return DecodedResponse(super().decode(response, n_rows), usage={"tokens": "many"})  # type: ignore[dict-item]

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Wrong, retry=RetryPolicy(max_attempts=1)) as client:
            with pytest.raises(RowsFailed, match=r"cannot be decoded \(TypeError"):
                await client.map(X[:1])
