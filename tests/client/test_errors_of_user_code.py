"""Exceptions of the user's own code: they reach the caller as they are, and bring the answers so far."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, ClientStateError, Interrupted, Limits, open_sink
from fanout.testing import MockEndpoint
from tests.client.scene import X, double
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from fanout import Response, Result
    from fanout.transport import Request

    Call = Callable[[Client, Any, Path], Any]


class OwnError(Exception):
    """An exception of the user's."""


class NoNetwork:
    """A transport that holds no connection, which only the loop that has ended could close."""

    async def send(self, request: Request) -> Response:
        raise AssertionError(request)


async def streamed(client: Client, rows: Any, _: Path) -> None:
    async with client.stream(rows) as results:
        async for _chunk in results:
            pass


async def written(client: Client, rows: Any, folder: Path) -> None:
    await client.run(rows, open_sink(folder / "y.npy"))


async def journalled(client: Client, rows: Any, folder: Path) -> None:
    await client.run(rows, open_sink(folder / "y.npy"), journal=folder / "y.journal")


async def mapped(client: Client, rows: Any, _: Path) -> None:
    await client.map(rows)


CALLS = [mapped, streamed, written, journalled]


class FailsAfter(Plain):
    """Raises an error in ``decode`` for the response with row 20."""

    def decode(self, reply: Response, n_rows: int) -> Any:
        values = super().decode(reply, n_rows)
        if values[0, 0] == X[20, 0] * 2:
            raise KeyboardInterrupt
        return values


@pytest.mark.virtual_time
class TestTheAnswersSoFar:
    @pytest.mark.parametrize("call", CALLS)
    async def test_come_with_an_exception_of_headers(self, call: Call, tmp_path: Path) -> None:
        calls = 0

        def headers() -> dict[str, str]:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OwnError("no token")
            return {"X-Key": f"number {calls}"}

        with MockEndpoint(double) as mock:
            mock.script(None, None, 401)
            async with Client(
                mock.url(Plain), codec=Plain, chunk_rows=10, headers=headers, limits=Limits(concurrency=1)
            ) as client:
                with pytest.raises(OwnError) as caught:
                    await call(client, X[:50], tmp_path)
        require_twenty_rows(caught.value.result, 50)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("call", [streamed, written])
    @pytest.mark.parametrize("is_async", [False, True])
    async def test_come_with_an_exception_of_the_input(self, call: Call, tmp_path: Path, is_async: bool) -> None:
        def rows() -> Iterator[Any]:
            yield from X[:20]
            raise OwnError("the source is gone")

        async def rows_awaited() -> AsyncIterator[Any]:
            for row in rows():
                yield row

        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=10) as client:
                with pytest.raises(OwnError) as caught:
                    await call(client, rows_awaited() if is_async else rows(), tmp_path)
        require_twenty_rows(caught.value.result, 20)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("call", CALLS)
    async def test_come_with_an_interrupt_out_of_the_codec(self, call: Call, tmp_path: Path) -> None:
        with MockEndpoint(double) as mock:
            async with Client(
                mock.url(FailsAfter), codec=FailsAfter, chunk_rows=10, limits=Limits(concurrency=1)
            ) as client:
                try:
                    await call(client, X[:50], tmp_path)
                except Interrupted as error:
                    require_twenty_rows(error.result, 50)
                else:
                    raise AssertionError("the interrupt was swallowed")


def require_twenty_rows(result: Result, total: int) -> None:
    assert result.ok.tolist() == [True] * 20 + [False] * (total - 20)
    assert sum(map(len, result.pending)) == total - 20


@pytest.mark.virtual_time
class TestPredict:
    async def test_an_interrupt_out_of_the_codec_stays_one_and_spares_the_others(self) -> None:
        outcomes = []

        async def call(client: Client, row: Any) -> None:
            try:
                outcomes.append(await client.predict(row))
            except Interrupted as error:
                outcomes.append(error)

        with MockEndpoint(double) as mock:
            async with Client(mock.url(FailsAfter), codec=FailsAfter, chunk_rows=1) as client:
                await asyncio.gather(call(client, X[20]), call(client, X[3]))
        interrupts = [outcome for outcome in outcomes if isinstance(outcome, Interrupted)]
        (interrupt,) = interrupts
        assert [len(rows) for rows in interrupt.result.pending] == [1]
        assert isinstance(interrupt.__cause__, KeyboardInterrupt)
        (answer,) = [outcome for outcome in outcomes if not isinstance(outcome, Interrupted)]
        assert np.array_equal(answer, X[3] * 2)


class TestClose:
    def test_after_the_event_loop_has_ended_is_refused_with_the_remedy(self) -> None:
        client = Client("http://127.0.0.1:9/x", codec=Plain, transport=NoNetwork())
        asyncio.run(client.open())
        with pytest.raises(ClientStateError, match=r"an event loop that has ended; close it before .*async with"):
            asyncio.run(client.close())

    def test_in_another_loop_is_refused_and_the_client_goes_on(self) -> None:
        async def main() -> None:
            with MockEndpoint(double) as mock:
                async with Client(mock.url(Plain), codec=Plain) as client:
                    problems: list[BaseException] = []
                    thread = threading.Thread(target=close_elsewhere, args=(client, problems))
                    thread.start()
                    await asyncio.to_thread(thread.join)
                    (problem,) = problems
                    assert isinstance(problem, ClientStateError)
                    assert "belongs to another event loop; close it there" in str(problem)
                    assert np.array_equal(await client.map(X), X * 2)

        asyncio.run(main())


def close_elsewhere(client: Client, problems: list[BaseException]) -> None:
    try:
        asyncio.run(client.close())
    except ClientStateError as error:
        problems.append(error)
