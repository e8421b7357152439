"""Packing: chunks bounded by bytes, whatever the rows are; each row is weighed once, and none is lost."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Client, ConfigError, Payload
from fanout.engine import Packing, Scale, chunker_of, packing
from fanout.engine.packing import row_bytes
from fanout.limits import TokenMeter
from fanout.rows import RowSet, count_rows
from fanout.testing import MockEndpoint
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXTS = st.lists(st.text(max_size=12), max_size=40)


async def as_async(rows: list[Any]) -> AsyncIterator[Any]:
    for row in rows:
        yield row


async def packed(rows: Any, chunk_rows: int, max_bytes: int, skip: RowSet | None = None) -> list[tuple[int, list[Any]]]:
    chunker = chunker_of(rows, chunk_rows, skip=skip, packing=Packing(Scale(), TokenMeter(), max_bytes=max_bytes))
    chunks = []
    while (task := await chunker.get()) is not None:
        chunks.append((task.chunk.start, list(task.rows)))
        assert task.size == sum(len(str(row).encode()) for row in task.rows)
    await chunker.close()
    return chunks


def utf8(rows: list[str]) -> int:
    return sum(len(row.encode()) for row in rows)


@given(
    rows=TEXTS,
    chunk_rows=st.integers(1, 9),
    max_bytes=st.integers(1, 40),
    kind=st.sampled_from(["list", "iter", "async"]),
    done=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=3),
)
def test_the_first_bound_reached_closes_the_chunk(
    rows: list[str], chunk_rows: int, max_bytes: int, kind: str, done: list[tuple[int, int]]
) -> None:
    if kind == "async":
        done = []  # only sources report the rows that are done
    given_rows: Any = {"list": lambda: rows, "iter": lambda: iter(rows), "async": lambda: as_async(rows)}[kind]()
    skip = RowSet(done)
    chunks = asyncio.run(packed(given_rows, chunk_rows, max_bytes, skip))
    wanted = [i for i in range(len(rows)) if skip.gap(i, i + 1)]
    assert [start + i for start, part in chunks for i in range(len(part))] == wanted
    for start, part in chunks:
        assert part == rows[start : start + len(part)]
        assert len(part) <= chunk_rows
        assert utf8(part) <= max_bytes or len(part) == 1
        after = start + len(part)
        full = len(part) == chunk_rows or after not in wanted
        assert full or utf8(rows[start : after + 1]) > max_bytes  # no chunk is smaller than it has to be


@given(rows=TEXTS, max_bytes=st.integers(1, 40), max_tokens=st.integers(1, 20))
def test_tokens_and_bytes_bound_a_chunk_together(rows: list[str], max_bytes: int, max_tokens: int) -> None:
    bounds = {"max_bytes": max_bytes, "max_tokens": max_tokens}
    counted: list[str] = []

    def count(row: str) -> int:
        counted.append(row)
        return len(row)

    chunker = chunker_of(rows, 64, packing=Packing(Scale(), TokenMeter(count), **bounds))
    parts: list[list[str]] = []
    while (task := chunker.get_nowait()) is not None:
        assert task.tokens == sum(map(len, task.rows))
        parts.append(list(task.rows))
    assert [row for part in parts for row in part] == counted == rows  # each is counted once
    for part in parts:
        assert len(part) == 1 or (utf8(part) <= max_bytes and sum(map(len, part)) <= max_tokens)
    for part, after in pairwise(parts):
        larger = [*part, after[0]]
        assert utf8(larger) > max_bytes or sum(map(len, larger)) > max_tokens


def test_uncounted_tokens_are_estimated_from_earlier_responses() -> None:
    meter = TokenMeter()
    chunker = chunker_of(["x" * 10] * 40, 64, packing=Packing(Scale(), meter, max_tokens=25))
    assert chunker.get_nowait().n == 10  # four bytes a token
    for _ in range(5):
        meter.learn(100, 100)
    assert chunker.get_nowait().n == 2


def test_every_row_is_weighed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[int] = []

    def weigh(rows: Any, index: int) -> float:
        weighed.append(int(rows[index]))
        return 1.0 + weighed[-1] % 3

    monkeypatch.setattr(packing, "row_bytes", weigh)
    for rows in ([str(i) for i in range(300)], iter([str(i) for i in range(300)])):
        weighed.clear()
        chunker = chunker_of(rows, 8, packing=Packing(Scale(), TokenMeter(), max_bytes=7))

        async def drain(chunker: Any = chunker) -> None:
            while await chunker.get() is not None:
                pass
            await chunker.close()

        asyncio.run(drain())
        assert weighed == list(range(300))


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        (np.zeros((3, 4), np.float32), 16),
        ({"a": np.zeros((3, 4), np.float32), "b": np.array(["x", "yy", "zé"])}, 19),
        (np.array([["a", "b"], ["c", "d"], ["eé", "f"]]), 4),
        (np.array(["a", "b", "日本"], np.dtypes.StringDType()), 6),
        (["a", "b", b"abcd"], 4),
        ([0, 0, np.zeros(5)], 40),
        ([0, 0, np.float32(1)], 4),
        ([0, 0, {"a": [1, 2]}], 11),
        ([0, 0, object()], 0),
        (["", "", "\ud800"], 3),
    ],
)
def test_the_cost_of_a_row(rows: Any, size: int) -> None:
    assert count_rows(rows) == 3
    assert row_bytes(rows, 2) == size


def test_the_scale_follows_the_largest_bodies_of_late() -> None:
    scale = Scale()
    assert scale.ratio == 1.0
    scale.learn(100, 50)
    assert scale.ratio == 0.5
    scale.learn(100, 300)
    assert scale.ratio == 3.0
    for _ in range(200):
        scale.learn(100, 100)
    assert scale.ratio == 1.0


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def sizes(mock: MockEndpoint) -> list[int]:
    return [len(request.body) for request in mock.requests]


@pytest.mark.virtual_time
@pytest.mark.parametrize("max_bytes", [250, 1000, 20_000])
async def test_no_body_of_several_rows_is_larger_than_the_bound(max_bytes: int) -> None:
    """Numbers take more bytes as JSON than in memory: the first bodies are measured before they are sent."""
    rows = np.random.default_rng(0).normal(size=(500, 4))
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1000, chunk_max_bytes=max_bytes) as client:
            assert np.array_equal(await client.map(rows), rows * 2)
            assert client.statistics().splits == 0
    assert max(sizes(mock)) <= max_bytes
    assert len(mock.requests) <= 1.5 * sum(sizes(mock)) / max_bytes + 2


@pytest.mark.virtual_time
async def test_a_row_beyond_the_bound_goes_alone() -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_max_bytes=60) as client:
            rows = [[1.0], [float(10**15)] * 9, [2.0]]
            assert (await client.map(rows, on_error="keep")).ok.tolist() == [True, False, True]
    assert [len(orjson.loads(request.body)["instances"]) for request in mock.requests[:3]] == [1, 1, 1]


class Doubling(Plain):
    """A body whose size nothing could predict."""

    def encode(self, rows: Any) -> Payload:
        body = super().encode(rows).body
        return Payload(body=body + b" " * (500 if 6 in np.asarray(rows)[:, 0] else 0))


@pytest.mark.virtual_time
async def test_parts_of_a_chunk_that_came_out_too_large_find_their_places() -> None:
    x = np.arange(60.0).reshape(30, 2)
    with MockEndpoint(double) as mock:
        async with (
            Client(mock.url(Plain), codec=Doubling, chunk_rows=10, chunk_max_bytes=400) as client,
            client.stream(x[i] for i in range(30)) as results,
        ):
            done = [chunk async for chunk in results]
    done.sort(key=lambda chunk: chunk.start)
    assert [chunk.start for chunk in done] == [0, *(chunk.stop for chunk in done[:-1])]
    assert (done[0].stop, done[-1].stop) == (10, 30)  # sent in parts, delivered whole
    for chunk in done:
        assert np.array_equal(chunk.values, x[chunk.start : chunk.stop] * 2)
    assert len(mock.requests) > 3


@pytest.mark.virtual_time
async def test_a_survey_counts_the_requests_of_a_run() -> None:
    rows = np.random.default_rng(1).normal(size=(300, 3))
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_max_bytes=700) as client:
            survey = await client.survey(rows)
            preview = await client.preview(rows)
        assert mock.requests == []
        async with Client(mock.url(Plain), codec=Plain, chunk_max_bytes=700) as client:
            await client.map(rows)
    assert (survey.chunks, survey.body_bytes, survey.rows) == (len(mock.requests), sum(sizes(mock)), 300)
    assert preview.body_bytes is not None
    assert preview.body_bytes <= 700


@pytest.mark.parametrize("body", [b"", b"abcd"])
def test_bodies_without_a_byte_teach_nothing(body: bytes) -> None:
    scale = Scale()
    packing = Packing(scale, TokenMeter(), max_bytes=50)
    task = chunker_of(["ab", "cd"], 2, packing=packing).get_nowait()
    task.payload = Payload(body=body * 10)
    packing.learn(task)
    assert scale.ratio == (10.0 if body else 1.0)


@pytest.mark.virtual_time
async def test_few_large_rows_are_sent_side_by_side() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=64, chunk_max_bytes=10) as client:
            await client.map(np.zeros((8, 1)))
    assert mock.max_in_flight == 8


@pytest.mark.parametrize("key", ["chunk_rows", "chunk_max_bytes", "chunk_max_tokens"])
def test_a_bound_that_nothing_fits_is_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be at least 1, not 0"):
        Client("http://h/x", codec=Plain, **{key: 0})
