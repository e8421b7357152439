"""Large responses are decoded on a helper thread, with the same results as small ones."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout import Client, DecodedResponse, InvalidResponse, RetryPolicy, RunStopped, codec
from fanout.testing import MockEndpoint, Scripted
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout import Response

X = np.arange(8.0)
SMALL, LARGE = 0, 2**20
"""Spaces behind an answer, which JSON allows."""


def padded(values: Any, spaces: int) -> Scripted:
    return Scripted(body=orjson.dumps({"predictions": values}) + b" " * spaces)


class Watched(Plain):
    """Notes the thread of each decoding, and calls ``on_decode`` there."""

    def __init__(self, on_decode: Callable[[Any], Any] = lambda values: values) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.on_decode = on_decode

    def decode(self, response: Response, n_rows: int) -> Any:
        self.threads.append(threading.get_ident())
        return self.on_decode(super().decode(response, n_rows))


async def asked(watched: Watched, *answers: Scripted, rows: np.ndarray = X, **options: Any) -> Any:
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(*answers)
        retry = RetryPolicy(max_attempts=1)
        async with Client(mock.url(Plain), codec=watched, retry=retry, **options) as client:
            return await client.map(rows, on_error="keep")


async def test_a_large_answer_is_decoded_on_a_thread_and_a_small_one_on_the_loop() -> None:
    watched = Watched()
    result = await asked(watched, padded([1.0] * 4, SMALL), padded([2.0] * 4, LARGE), chunk_rows=4)
    here = threading.get_ident()
    assert sorted(thread == here for thread in watched.threads) == [False, True]
    assert sorted(result.values.tolist()) == [1.0] * 4 + [2.0] * 4


async def test_the_loop_goes_on_while_a_large_answer_is_decoded() -> None:
    """The answer is decoded once a timer of the loop has fired: on the loop it would never be."""
    fired = threading.Event()

    def wait(values: Any) -> Any:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loop).add_done_callback(lambda _: fired.set())
        assert fired.wait(30)
        return values

    loop = asyncio.get_running_loop()
    result = await asked(Watched(wait), padded([1.0] * 8, LARGE))
    assert fired.is_set()
    assert result.ok.all()


@pytest.mark.parametrize("spaces", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidResponse("not so"), "not so"),
        (KeyError("x"), "cannot be decoded (KeyError: 'x')"),
        (MemoryError(), "cannot be decoded (MemoryError: )"),
        (RecursionError("too deep"), "cannot be decoded (RecursionError: too deep)"),
        (StopIteration(), "cannot be decoded (StopIteration: )"),
        (ValueError("long " * 10**6), "long long long"),
    ],
)
async def test_whatever_decode_raises_makes_the_answer_invalid(error: Exception, reason: str, spaces: int) -> None:
    def fail(values: Any) -> Any:
        raise error

    result = await asked(Watched(fail), padded([1.0], spaces), rows=X[:1])
    assert not result.ok.any()
    assert reason in result.failures[0].reason
    assert len(result.failures[0].reason) <= 2000


@pytest.mark.parametrize("spaces", [SMALL, LARGE])
@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3)], ids=["CancelledError", "SystemExit"])
async def test_an_abnormal_end_of_decode_ends_the_run(error: BaseException, spaces: int) -> None:
    def fail(values: Any) -> Any:
        raise error

    with pytest.raises((RunStopped, RuntimeError)) as caught:
        await asked(Watched(fail), padded([1.0] * 8, spaces))
    assert "decode" in str(caught.value)


class Unsizable(np.ndarray[Any, Any]):
    """Has no length in the end."""

    def __len__(self) -> int:
        raise MemoryError


@pytest.mark.parametrize("spaces", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lambda values: values[:-1], "0 rows for 1"),
        (lambda values: DecodedResponse(values[:-1], usage={"n": 3}), "0 rows for 1"),
        (lambda values: {1: values, "b": values}, ""),
        (lambda values: values.view(Unsizable), "cannot be checked (MemoryError"),
        (lambda values: None, "decode must return numpy arrays"),
    ],
)
async def test_whatever_decode_returns_is_checked(values: Any, reason: str, spaces: int) -> None:
    watched = Watched(values)
    result = await asked(watched, padded([1.0], spaces), rows=X[:1])
    assert len(watched.threads) == 1, "it is decoded once"
    assert result.ok.all() if not reason else reason in result.failures[0].reason
    assert result.stats.usage in ({}, {"n": 3})


async def test_an_answer_checked_before_the_form_was_known_is_held_against_it() -> None:
    """The large answer is decoded until the two small ones have settled the form, which is another."""
    settled = threading.Event()

    def wait(values: Any) -> Any:
        if values.ndim == 2:
            assert settled.wait(30)
        return values

    done = 0

    def count(event: Any) -> None:
        nonlocal done
        done += event.kind == "done"
        if done == 2:
            settled.set()

    wide = padded([[1.0, 2.0]] * 2, LARGE)
    plain = [padded([3.0] * 2, SMALL)] * 3
    result = await asked(Watched(wait), wide, *plain, chunk_rows=2, on_event=count)
    assert result.ok.all()
    again = result.values != 3
    assert np.array_equal(result.values[again], X[again] * 2), "the rows of the wide answer were sent again"
    assert int(again.sum()) == 2


async def test_a_cancelled_run_does_not_wait_for_the_thread() -> None:
    go, decoding = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(values: Any) -> Any:
        loop.call_soon_threadsafe(decoding.set)
        assert go.wait(30)
        return values

    task = asyncio.create_task(asked(Watched(wait), padded([1.0] * 8, LARGE)))
    try:
        await decoding.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not go.is_set()
    finally:
        go.set()


async def test_raw_tensors_are_views_and_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    oip = codec("oip", input="x")
    decode = type(oip).decode

    def noted(self: Any, response: Response, n_rows: int) -> Any:
        threads.append(threading.get_ident())
        return decode(self, response, n_rows)

    monkeypatch.setattr(type(oip), "decode", noted)
    rows = np.ones((3, 2**17))
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url("oip"), codec=oip) as client:
            values = await client.map(rows)
            assert np.array_equal(values, rows * 2)
        async with Client(mock.url("oip"), codec=codec("oip", input="x", binary=False)) as client:
            assert np.array_equal(await client.map(rows), rows * 2)
    assert [thread == threading.get_ident() for thread in threads] == [True, False]
