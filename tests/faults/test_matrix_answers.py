"""Rows 22 to 29, 60, 61, 75 and 76 of the fault matrix: answers that are whole and say the wrong thing."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import RunStopped
from fanout.serving.exchange import ServerResponse, json_answer
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
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fanout.serving.exchange import ServerRequest

ECHO = fanout.codec("json", answers="@")
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
async def test_row_23_values_that_are_not_finite_are_invalid_and_isolated(fault: str) -> None:
    await mended(fault)
    assert "NaN or infinity" in await isolated(fault)


@pytest.mark.parametrize(("fault", "value"), [("nan", np.nan), ("infinity", np.inf), ("1e999", np.inf)])
async def test_row_23_values_that_are_not_finite_are_kept_on_request(fault: str, value: float) -> None:
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
    """As the 503 that it means: one row that always gets it waits behind the circuit breaker, in real time."""
    await mended("200-error")


async def test_row_24_a_quota_error_with_status_200_stops_the_run() -> None:
    error_body = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
    async with FaultServer(double) as server:
        server.script(None, None, json_answer(error_body))
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
    def choose(request: ServerRequest) -> str | None:
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


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("int64", "-9223372036854775809"),
        ("int64", "9223372036854775808.0"),
        ("int64", "1e300"),
        ("uint64", "-1.0"),
        ("uint8", "256"),
        ("int64", "9007199254740990.7"),
        ("float64", "9007199254740993"),
        ("float32", "16777217"),
        ("float32", "1e39"),
    ],
)
async def test_row_60_a_number_that_the_dtype_does_not_hold_fails_its_row(dtype: str, number: str) -> None:
    async with answering(lambda rows: "[" + ",".join(number if row == 5 else f"{row}.0" for row in rows) + "]") as url:
        result = await numbered(url, dtype=dtype)
    assert np.flatnonzero(~result.ok).tolist() == [5]
    assert [(failure.start, failure.stop) for failure in result.failures] == [(5, 6)]
    assert np.array_equal(result.values[result.ok], np.arange(16).astype(dtype)[result.ok])


@pytest.mark.parametrize(
    ("dtype", "number", "value"),
    [
        ("int64", "123456789012345678.0", 123456789012345678),
        ("int64", "-9223372036854775808", -(2**63)),
        ("uint64", "1e19", 10**19),
        ("uint64", "18446744073709551615.0", 2**64 - 1),
        ("float64", "1e19", 1e19),
        ("float64", "-0.0", -0.0),
    ],
)
async def test_row_60_a_number_that_the_dtype_holds_is_exact(dtype: str, number: str, value: Any) -> None:
    async with answering(lambda rows: "[" + ",".join(number for _ in rows) + "]") as url:
        result = await numbered(url, dtype=dtype)
    assert_whole(result, np.full(16, value, dtype))
    assert result.values.tobytes() == np.full(16, value, dtype).tobytes()


async def test_row_60_integers_of_an_input_file_are_refused_as_those_from_python_are(tmp_path: Path) -> None:
    rows = [[1], [2**64], [3], [-(2**63) - 1]]
    (tmp_path / "x.jsonl").write_text("".join(f"{row}\n" for row in rows))
    async with answering(lambda came: f"{[0.5] * len(came)}") as url, client(url, codec=ECHO) as c:
        read = [row for block in fanout.open_source(tmp_path / "x.jsonl").blocks() for row in block.rows]
        for given in (rows, read):
            result = await c.map(given, on_error="keep")
            assert result.ok.tolist() == [True, False, True, False]
            assert "64-bit" in result.failures[0].reason


@pytest.mark.parametrize("field", ["results[].score", "results[*].score", "results"])
async def test_row_61_sorted_items_are_placed_by_their_index(field: str) -> None:
    def ranked(rows: list[Any]) -> str:
        items = [{"index": i, "score": (row * 7919) % 101} for i, row in enumerate(rows)]
        return json.dumps({"results": sorted(items, key=lambda item: -item["score"])})

    async with answering(ranked) as url:
        result = await numbered(url, answers=field, n=128)
    assert_whole(result, np.arange(128) * 7919 % 101)


@pytest.mark.parametrize(
    ("field", "items"),
    [
        ("r[].y", [{"y": 1}, {"z": 1}, {"y": 3}]),
        ("r[].labels[]", [{"labels": ["a", "b"]}, {"labels": []}]),
        ("r[?y].y", [{"y": 1}, {"y": None}, {"y": 2}]),
        ("r[].y", [{"y": 1, "index": 0}, {"y": 2, "index": 0}]),
    ],
)
async def test_row_61_items_that_would_shift_are_invalid(field: str, items: list[Any]) -> None:
    async with answering(lambda rows: json.dumps({"r": items})) as url:
        with pytest.raises(RunStopped, match="accepts no row at all") as caught:
            await numbered(url, answers=field, n=2)
    assert not caught.value.result.ok.any()


@pytest.mark.parametrize("chunk_rows", [1, 2, 64])
@pytest.mark.parametrize("lengths", [(1, 2, 3, 4, 5), (0, 1, 2, 3), (1, 2), (7, 3, 9)])
async def test_row_75_rows_of_varying_length_end_in_one_message(chunk_rows: int, lengths: tuple[int, ...]) -> None:
    received = 0

    def varying(rows: list[Any]) -> str:
        nonlocal received
        received += 1
        return json.dumps({"predictions": [[row] * lengths[row % len(lengths)] for row in rows]})

    async with answering(varying) as url, client(url, codec="json", chunk_rows=chunk_rows) as c:
        with pytest.raises(RunStopped, match="differ in length") as caught:
            await c.map(np.arange(640))
        assert received <= 12
        assert caught.value.kind == "rejected"
        (way_out,) = re.findall(r'answers = "([^"]*)"', str(caught.value))
    async with answering(varying) as url, client(url, codec=fanout.codec("json", answers=way_out)) as c:
        texts = await c.map(np.arange(640))
    assert [json.loads(text) for text in texts] == [[row] * lengths[row % len(lengths)] for row in range(640)]


@pytest.mark.parametrize("chunk_rows", [1, 4, 64])
@pytest.mark.parametrize("length", [0, 2, 4])
async def test_row_75_one_row_of_another_length_fails_alone(chunk_rows: int, length: int) -> None:
    def answers(rows: list[Any]) -> str:
        return json.dumps({"predictions": [[float(row)] * (length if row == 70 else 3) for row in rows]})

    async with answering(answers) as url, client(url, codec="json", chunk_rows=chunk_rows) as c:
        result = await c.map(np.arange(256), on_error="keep")
    assert_failed(result, range(70, 71), np.repeat(np.arange(256.0), 3).reshape(-1, 3))


async def test_row_76_decoration_does_no_harm() -> None:
    async with answering(lambda rows: "\ufeff" + json.dumps({"predictions": rows})) as url:
        assert_whole(await numbered(url, answers="predictions"), np.arange(16))

    def one_without_index(rows: list[Any]) -> str:
        items = [{"index": i, "y": row} for i, row in enumerate(rows)][::-1]
        del items[3]["index"]
        return json.dumps({"r": items})

    async with answering(one_without_index) as url:
        assert_whole(await numbered(url, answers="r[].y"), np.arange(16))


@asynccontextmanager
async def answering(body: Callable[[list[Any]], str]) -> AsyncIterator[str]:
    """A server that answers a list of rows with the JSON that ``body`` makes of it."""

    def model(rows: Any) -> Any:
        raise AssertionError("each step answers itself")

    def answer(request: ServerRequest) -> Any:
        document = body(request.json()["instances"]).encode()
        return ServerResponse(status=200, headers={"Content-Type": "application/json"}, body=document)

    async with FaultServer(model, faults=answer) as server:
        yield server.url("v1")


async def numbered(url: str, *, n: int = 16, **options: Any) -> Any:
    codec = fanout.codec("json", **{"answers": "@", **options})
    async with client(url, codec=codec) as c:
        return await c.map(np.arange(n), on_error="keep")
