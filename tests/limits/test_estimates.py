"""The estimate of a request's tokens before any answer has shown their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from fanout import Client, Codec, DecodedResponse, Limits, Payload, Prices, RunStopped
from fanout.testing import MockEndpoint

pytestmark = pytest.mark.virtual_time


class Bounded(Codec):
    """Bounds each answer to 1,000 tokens, and reports one."""

    name = "bounded"
    path = "/v1/models/{model}:predict"

    def encode(self, rows: Any) -> Payload:
        return Payload(body=orjson.dumps({"instances": np.asarray(rows).tolist(), "max_tokens": 1000}))

    def decode(self, response: Any, n_rows: int) -> DecodedResponse:
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return DecodedResponse(np.array(response.json()["predictions"]), usage=usage)


async def test_an_answer_is_taken_to_be_as_long_as_its_bound_where_its_tokens_have_a_price() -> None:
    """So the first request is not sent where its longest answer would cost more than the limit."""
    prices, limits = Prices(input_per_million=0.0, output_per_million=1e6), Limits(max_cost=999.0)
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Bounded), codec=Bounded, cost=prices, limits=limits) as client:
            with pytest.raises(RunStopped) as stopped:
                await client.map(np.ones((1, 2)))
    assert (stopped.value.kind, len(mock.requests)) == ("cost", 0)


async def test_a_bound_does_not_count_where_the_answers_of_an_api_cost_nothing() -> None:
    """The field may mean something else there: the tokens of an answer have no price."""
    prices, limits = Prices(input_per_million=1.0), Limits(max_tokens_total=500)
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Bounded), codec=Bounded, cost=prices, limits=limits) as client:
            assert (await client.map(np.ones((1, 2))) == 2.0).all()
