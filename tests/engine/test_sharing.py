"""Rows that need no request: duplicates of one another, and those that a cache knows."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Cache, Client, ConfigError, Limits, RowsFailed, RunStopped
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.virtual_time


class Model:
    """Doubles its rows, refuses the bad ones, and counts how often it has answered each."""

    def __init__(self, bad: Sequence[float] = ()) -> None:
        self.bad = bad
        self.answered: Counter[float] = Counter()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0], self.bad).any():
            raise StatusError(400, "that row is poison")
        self.answered.update(x[:, 0].tolist())
        return x * 2


def rows_of(*numbers: float) -> np.ndarray:
    return np.array([[n, n / 2] for n in numbers])


async def test_duplicates_are_sent_once_and_every_row_has_its_answer() -> None:
    model, X = Model(), rows_of(*[3, 1, 3, 3, 2, 1] * 50)
    with MockEndpoint(model) as mock:
        async with Client(mock.url("v1"), codec="v1", chunk_rows=2, dedupe=True) as client:
            result = await client.map(X, on_error="keep")
            assert (result.values == X * 2).all()
            assert result.stats.ok == result.stats.rows == 300
            assert (result.stats.requests, result.stats.shared, result.stats.cached) == (2, 297, 0)
            assert result.cached is None
    assert set(model.answered.values()) == {1}


async def test_without_the_option_every_row_is_sent() -> None:
    model = Model()
    with MockEndpoint(model) as mock:
        async with Client(mock.url("v1"), codec="v1") as client:
            await client.map(rows_of(1, 1, 1))
    assert model.answered[1] == 3


async def test_a_duplicate_of_a_row_in_flight_waits_for_it_and_holds_up_no_other() -> None:
    X = rows_of(*[0] * 6, *range(1, 400), *[0] * 6)
    chunks = []
    with MockEndpoint(Model(), latency=lambda number: 50.0 if number == 0 else 0.1) as mock:
        client = Client(mock.url("v1"), codec="v1", chunk_rows=1, dedupe=True)
        async with client, client.stream(iter(list(X))) as stream:
            async for done in stream:
                chunks.append((done.start, done.stop))
                assert (done.values == X[done.start : done.stop] * 2).all()
    assert sorted(row for start, stop in chunks for row in range(start, stop)) == list(range(len(X)))
    assert chunks[-2:] == [(0, 6), (405, 411)], "the last duplicates come with their leader"


async def test_duplicates_of_a_failed_row_fail_with_its_reason_and_are_not_sent() -> None:
    model = Model(bad=[7])
    X = rows_of(7, 1, 7, *range(10, 400), 7, 7)
    requests = []
    with MockEndpoint(model) as mock:
        async with Client(mock.url("v1"), codec="v1", chunk_rows=1, dedupe=True) as client:
            with pytest.raises(RowsFailed, match="4 of 395 rows failed") as caught:
                await client.map(X)
            requests = [body for body in mock.requests if b"[7.0," in body.body]
    result = caught.value.result
    assert np.flatnonzero(~result.ok).tolist() == [0, 2, 393, 394]
    assert (result.stats.ok, result.stats.failed) == (391, 4)
    assert {failure.reason for failure in result.failures} == {result.failures[0].reason}
    assert len(requests) <= 2, "sent once, and confirmed once"


async def test_ids_stay_with_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps({"id": f"r{i}", "x": [float(i % 5), 0.0]}) for i in range(40)))
    source = fanout.open_source(path, column="x", id="id")
    seen: dict[Any, list[float]] = {}
    with MockEndpoint(Model(bad=[3])) as mock:
        client = Client(mock.url("v1"), codec="v1", chunk_rows=1, dedupe=True)
        async with client, client.stream(source) as stream:
            async for done in stream:
                assert done.ids is not None
                failed = {identity for failure in done.failures for identity in failure.ids}
                assert failed == {identity for identity, ok in zip(done.ids, done.ok, strict=True) if not ok}
                values = [] if done.outputs is None else done.values.tolist()
                seen |= {i: row for i, row in zip(done.ids, values, strict=False) if i not in failed}
    assert seen == {f"r{i}": [2.0 * (i % 5), 0.0] for i in range(40) if i % 5 != 3}


async def test_a_second_run_takes_every_answer_from_the_cache(tmp_path: Path) -> None:
    model, X, path = Model(), rows_of(*range(300)), tmp_path / "answers.sqlite"
    for _ in range(2):
        with MockEndpoint(model) as mock:
            async with Client(mock.url("v1"), codec="v1", cache=path) as client:
                result = await client.map(X, on_error="keep")
                assert (result.values == X * 2).all()
    assert (result.stats.requests, result.stats.cached, result.stats.ok) == (0, 300, 300)
    assert result.cached is not None
    assert result.cached.all()
    assert set(model.answered.values()) == {1}


async def test_known_rows_lie_between_those_that_are_sent(tmp_path: Path) -> None:
    model, path = Model(), tmp_path / "answers.sqlite"
    with MockEndpoint(model) as mock:
        async with Client(mock.url("v1"), codec="v1", cache=Cache(path=str(path)), chunk_rows=8) as client:
            await client.map(rows_of(*range(0, 200, 3)))
            X = rows_of(*range(200))
            result = await client.map(X, on_error="keep")
            async with client.stream(X) as stream:
                cached = sum([0 if done.cached is None else int(done.cached.sum()) async for done in stream])
    assert (result.values == X * 2).all()
    assert result.cached is not None
    assert np.flatnonzero(result.cached).tolist() == list(range(0, 200, 3))
    assert max(model.answered.values()) == 1
    assert cached == 200
    sizes = [len(orjson.loads(request.body)["instances"]) for request in mock.requests]
    assert sizes[9:] == [8] * 16 + [5], "requests are as large as without a cache"


async def test_failed_rows_are_not_cached(tmp_path: Path) -> None:
    model, path = Model(bad=[1]), tmp_path / "answers.sqlite"
    with MockEndpoint(model) as mock:
        async with Client(mock.url("v1"), codec="v1", cache=path) as client:
            await client.map(rows_of(0, 1, 2), on_error="keep")
            model.bad = []
            result = await client.map(rows_of(0, 1, 2), on_error="keep")
    assert result.ok.all()
    assert (result.stats.cached, model.answered[1]) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"codec": fanout.codec("v1", dtype="float64", shape=[2])},
        {"cache": {"namespace": "other"}},
        {"headers": {"X-Model-Version": "2"}},
        {"endpoint": "?variant=b"},
    ],
    ids=str,
)
async def test_whatever_changes_answers_changes_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    model, path = Model(), str(tmp_path / "answers.sqlite")
    for options in ({}, change, {}, change):
        with MockEndpoint(model) as mock:
            url = mock.url("v1") + options.get("endpoint", "")
            cache = Cache(path=path, **options.get("cache", {}))
            codec, headers = options.get("codec", "v1"), options.get("headers", {})
            async with Client(url, codec=codec, headers=headers, cache=cache) as client:
                await client.map(rows_of(1, 2))
    assert model.answered == {1: 2, 2: 2}


async def test_credentials_and_limits_do_not_change_the_key(tmp_path: Path) -> None:
    model, path = Model(), tmp_path / "answers.sqlite"
    for token in ("first-token", "second-token"):
        with MockEndpoint(model) as mock:
            headers = {"X-Api-Key": token, "Authorization": f"Bearer {token}"}
            url = f"{mock.url('v1')}?key={token}"
            async with Client(url, codec="v1", headers=headers, cache=path, chunk_rows=len(token)) as client:
                await client.map(rows_of(1, 2))
    assert max(model.answered.values()) == 1
    assert b"token" not in path.read_bytes()


async def test_a_server_whose_answers_have_another_form_than_the_cached_ones_is_not_mixed_with_them(
    tmp_path: Path,
) -> None:
    width, path = 3, tmp_path / "answers.sqlite"
    with MockEndpoint(lambda x: np.ones((len(x), width))) as mock:
        async with Client(mock.url("v1"), codec="v1", cache=path) as client:
            await client.map(rows_of(1, 2))
        width, X = 5, rows_of(*range(100, 400), 1, 2)
        async with Client(mock.url("v1"), codec="v1", cache=path) as client:
            with pytest.raises(RunStopped, match=r"\[5\], answers in the cache, .* another cache.namespace .* \[3\]"):
                await client.map(X)
        async with Client(mock.url("v1"), codec="v1", cache=Cache(path=str(path), namespace="5")) as client:
            assert (await client.map(X)).shape == (302, 5)
        # The codec's word counts for both.
        async with Client(mock.url("v1"), codec=fanout.codec("v1", shape=[5]), cache=path) as client:
            assert (await client.map(X)).shape == (302, 5)


def test_sampled_answers_are_kept_only_if_the_user_says_so(tmp_path: Path) -> None:
    chat = fanout.codec("openai-chat", model="m", extra={"temperature": 0.7})
    with pytest.raises(ConfigError, match=r"temperature is 0.7\): set temperature = 0, or cache.sampled"):
        Client("http://x.test", codec=chat, cache=tmp_path / "a.sqlite")
    with pytest.raises(ConfigError, match="a chat without a temperature"):
        Client("http://x.test", codec="openai-chat", cache=tmp_path / "a.sqlite")
    template = fanout.codec("json", request={"prompt": "{{p}}", "options": {"temperature": "{{t}}"}})
    with pytest.raises(ConfigError, match=r"temperature is '\{\{t\}\}'"):
        Client("http://x.test", codec=template, cache=tmp_path / "a.sqlite")
    Client("http://x.test", codec=chat, cache=Cache(path=str(tmp_path / "a.sqlite"), sampled=True))
    Client("http://x.test", codec=chat, dedupe=True)
    calm = fanout.codec("openai-chat", extra={"temperature": 0})
    Client("http://x.test", codec=calm, cache=tmp_path / "a.sqlite")
    assert list(tmp_path.iterdir()) == []


async def test_a_cache_that_fails_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "answers.sqlite"
    with MockEndpoint(Model()) as mock:
        async with Client(mock.url("v1"), codec="v1", cache=path, dedupe=True) as client:
            await client.map(rows_of(1, 2))
            with closing(sqlite3.connect(path)) as database:
                database.execute("DROP TABLE blocks")
            X = rows_of(*[1, 2, 1] * 300)
            assert (await client.map(X) == X * 2).all()
    assert len(caplog.records) == 1
    assert "cannot be used any more" in caplog.text


async def test_a_run_of_duplicates_is_resumed(tmp_path: Path) -> None:
    X, out = rows_of(*[n % 40 for n in range(400)]), tmp_path / "y.npy"
    model = Model()
    with MockEndpoint(model, latency=1.0) as mock:
        for timeout in (2.5, None):
            limits = Limits(concurrency=2)
            async with Client(mock.url("v1"), codec="v1", chunk_rows=3, dedupe=True, limits=limits) as client:
                run = client.run(X, fanout.open_sink(out), journal=tmp_path / "y.journal", timeout=timeout)
                if timeout is None:
                    await run
                    continue
                with pytest.raises(RunStopped) as stopped:
                    await run
                assert 0 < stopped.value.result.ok.sum() < 400
    assert (np.load(out) == X * 2).all()
    assert max(model.answered.values()) <= 2
