"""Micro-batching: single rows of concurrent callers, gathered for a moment and sent as one chunk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.engine.feed import stacked
from fanout.errors import ClientStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from fanout.types import Rows


class _Caller(NamedTuple):
    row: Any
    answer: asyncio.Future[Any]


class Batcher:
    """Gathers rows that can share a request.

    Args:
        send: sends rows and gives one outcome a row, in order: a value, or the exception that its caller is to see.
        max_rows: a batch of this size goes at once.
        linger: seconds for which a first row waits for others.
    """

    def __init__(
        self, send: Callable[[Rows], Awaitable[list[Any]]], *, max_rows: Callable[[], int], linger: float
    ) -> None:
        self._send = send
        self._max_rows = max_rows
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._gathering: dict[Hashable, list[_Caller]] = {}
        self._sending: dict[asyncio.Task[None], list[_Caller]] = {}
        self._closed = False

    async def predict(self, row: Any) -> Any:
        """The answer to one row."""
        if self._closed:
            raise ClientStateError("the client is closed")
        key, answer = _kind(row), self._loop.create_future()
        callers = self._gathering.get(key)
        if callers is None:
            callers = self._gathering[key] = []
            self._loop.call_later(self._linger, self._send_batch, key, callers)
        callers.append(_Caller(row, answer))
        if len(callers) >= self._max_rows():
            self._send_batch(key, callers)
        return await answer

    async def close(self) -> None:
        """Let go of all callers; those without an answer get a `ClientStateError`."""
        self._closed = True
        waiting = [caller for callers in self._gathering.values() for caller in callers]
        self._gathering.clear()
        for task in self._sending:
            task.cancel()
            waiting += self._sending[task]
        await asyncio.gather(*self._sending, return_exceptions=True)
        _answer(waiting, [ClientStateError("the client was closed before the answer came")] * len(waiting))

    def _send_batch(self, key: Hashable, callers: list[_Caller]) -> None:
        if self._gathering.get(key) is not callers:  # it was full before its time and has gone already
            return
        del self._gathering[key]
        callers = [caller for caller in callers if not caller.answer.done()]  # the others have given up
        if not callers:
            return
        task = self._loop.create_task(self._exchange(callers))
        self._sending[task] = callers
        task.add_done_callback(self._sent)
        for caller in callers:
            caller.answer.add_done_callback(lambda _: self._cancel_if_unwanted(task))

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)

    def _cancel_if_unwanted(self, task: asyncio.Task[None]) -> None:
        """A request that nobody waits for any more is not worth a retry."""
        if all(caller.answer.done() for caller in self._sending.get(task, ())):
            task.cancel()

    async def _exchange(self, callers: list[_Caller]) -> None:
        try:
            outcomes = await self._send(stacked([caller.row for caller in callers]))
        except Exception as error:  # noqa: BLE001 - it belongs to the callers
            outcomes = [error] * len(callers)
        _answer(callers, outcomes)


def _answer(callers: list[_Caller], outcomes: list[Any]) -> None:
    for caller, outcome in zip(callers, outcomes, strict=True):
        if caller.answer.done():
            continue
        if isinstance(outcome, Exception):
            caller.answer.set_exception(outcome)
        else:
            caller.answer.set_result(outcome)


def _kind(row: Any) -> Hashable:
    """Rows of one kind can share a request, so that an odd one cannot spoil the others'."""
    if isinstance(row, np.ndarray | np.generic):
        return row.dtype.str, row.shape
    return type(row).__name__
