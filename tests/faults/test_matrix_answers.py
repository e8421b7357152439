"""Rows 22 to 29 of the fault matrix: answers that are whole and say the wrong thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import RunStopped
from fanout.serving.exchange import json_answer
from fanout.serving.models import Model
from fanout.testing import FaultServer
from tests.faults.scene import (
    CHUNKS,
    X,
    assert_failed,
    assert_whole,
    client,
    double,
    once_for,
    when_asked_for,
)

if TYPE_CHECKING:
    from fanout.serving.exchange import Request

TEXTS = [f"text {i}" for i in range(130)]


async def mended(fault: str) -> None:
    """An answer with ``fault`` costs one more request, wherever it comes, and spoils nothing."""
    async with FaultServer(double, faults=once_for([0, 200], fault)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert server.hits[fault] == 2
    assert result.stats.requests == server.received == CHUNKS + 2


async def isolated(fault: str) -> str:
    """A row whose requests always meet ``fault`` fails alone, found by splitting. Gives the reason."""
    async with FaultServer(double, faults=when_asked_for(130, fault)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(130, 131))
    assert server.received <= CHUNKS + 1 + 2 * 6 + 1
    return result.failures[0].reason


async def test_row_22_truncated_json_is_tried_again_and_isolated_if_it_persists() -> None:
    await mended("truncated-json")
    assert "is not JSON" in await isolated("truncated-json")


@pytest.mark.parametrize("fault", ["nan", "infinity", "1e999"])
async def test_row_23_what_is_not_finite_is_invalid_and_isolated(fault: str) -> None:
    await mended(fault)
    assert "NaN or infinity" in await isolated(fault)


@pytest.mark.parametrize(("fault", "value"), [("nan", np.nan), ("infinity", np.inf), ("1e999", np.inf)])
async def test_row_23_what_is_not_finite_is_kept_on_request(fault: str, value: float) -> None:
    codec = fanout.codec("v1", nonfinite="keep")
    async with FaultServer(double) as server:
        server.script(None, fault)
        async with client(server, codec=codec) as c:
            values = await c.map(X)
    expected = X * 2
    expected[64 + 32, 0] = value
    assert np.array_equal(values, expected, equal_nan=True)
    assert server.received == CHUNKS


async def test_row_24_an_error_body_with_status_200_is_tried_again() -> None:
    await mended("200-error")
    assert "overloaded" in await isolated("200-error")


async def test_row_24_a_quota_error_with_status_200_stops_the_run() -> None:
    said = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
    async with FaultServer(double) as server:
        server.script(None, None, json_answer(said))
        async with client(server) as c:
            with pytest.raises(RunStopped, match="exceeded your current quota") as caught:
                await c.map(X)
    assert caught.value.kind == "quota"
    assert server.received == 3


async def test_row_25_a_web_page_with_status_200_is_tried_again_and_given_up_in_the_end() -> None:
    await mended("html")
    assert "is not JSON" in await isolated("html")
    async with FaultServer(double, faults=lambda _: "html") as server, client(server) as c:
        with pytest.raises(RunStopped, match="accepts no row at all"):
            await c.map(X)
    assert server.received < 2 + 2 * 6 + 4, "a captive portal is not asked for every row"


@pytest.mark.parametrize("fault", ["row-missing", "row-extra"])
async def test_row_26_a_row_too_few_or_too_many_never_shifts_the_others(fault: str) -> None:
    await mended(fault)
    assert "for 1 that were sent" in await isolated(fault)


@pytest.mark.parametrize("fault", ["row-missing", "row-extra"])
async def test_row_26_a_server_that_miscounts_more_than_one_row_is_split_down_to_one(fault: str) -> None:
    def choose(request: Request) -> str | None:
        return fault if len(request.json()["instances"]) > 1 else None

    async with FaultServer(double, faults=choose) as server, client(server, chunk_rows=8) as c:
        result = await c.map(X[:16], on_error="keep")
    assert_whole(result, X[:16] * 2)


async def test_row_27_one_row_for_many_is_never_spread_over_them() -> None:
    await mended("one-row")
    async with FaultServer(double, faults=lambda _: "one-row") as server, client(server, chunk_rows=8) as c:
        result = await c.map(X[:32], on_error="keep")
    assert_whole(result, X[:32] * 2)
    assert server.received <= 4 * (2 + 14), "twice for each chunk, once for each part"


def embedding(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), float(text[5:]), 0.5] for text in texts], np.float32)


async def embedded(*steps: str | None) -> tuple[Any, FaultServer]:
    codec = fanout.codec("openai-embeddings", model="m")
    async with FaultServer(Model(name="m", function=embedding, embed=embedding)) as server:
        server.script(*steps)
        async with client(server, codec=codec) as c:
            return await c.map(TEXTS, on_error="keep"), server


async def test_row_28_permuted_ids_are_put_in_order() -> None:
    result, server = await embedded("permuted-ids", "permuted-ids", "permuted-ids")
    assert_whole(result, embedding(TEXTS))
    assert server.received == 3


async def test_row_28_duplicate_ids_are_rejected() -> None:
    result, server = await embedded(None, "duplicate-ids")
    assert_whole(result, embedding(TEXTS))
    assert server.received == 4
    result, _ = await embedded(*["duplicate-ids"] * 30)
    assert np.array_equal(result.values[result.ok], embedding(TEXTS)[result.ok])


@pytest.mark.parametrize("fault", ["null", "string", "ragged", "huge-integer"])
async def test_row_29_values_of_another_kind_are_never_cast(fault: str) -> None:
    await mended(fault)
    await isolated(fault)


@pytest.mark.parametrize("fault", ["null", "string", "ragged", "huge-integer"])
async def test_row_29_a_chunk_with_values_of_another_kind_spoils_no_other(fault: str) -> None:
    async with FaultServer(double, faults=when_asked_for(range(64, 128), fault)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(64, 128))
