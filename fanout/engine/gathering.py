"""Rows that are gathered to share a request: their form, and the rows that are held back until a slot is near."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from fanout.engine.batching import Batch, Caller
    from fanout.limits import ConcurrencyLimiter
    from fanout.upstream.call import Call

# Levels of a nested row that its form takes into account.
_DEEPEST = 8

# Seconds after which held rows look for a slot that was freed by another request than one of theirs.
_LOOK_AGAIN = 0.1


class Gathered:
    """Rows of one form that will share a request."""

    __slots__ = ("callers", "form", "since", "urgent")

    def __init__(self, form: tuple[Call, Hashable]) -> None:
        self.form = form
        self.urgent = form[0].urgent
        self.callers: list[Caller] = []
        self.since = inf
        """When they were ready to be sent; infinite while more are awaited."""


class HeldRows:
    """Rows that are ready, and held back while as many batches wait for a slot as there are slots.

    Each batch has a task, and perhaps a run, so many that only wait would keep the garbage collector at work. Further
    rows may join those that are held.

    Args:
        limiter: grants the slots.
        send: begins a batch of some rows.
        longest: most seconds for which rows are held.
    """

    def __init__(
        self, limiter: Callable[[], ConcurrencyLimiter], send: Callable[[Gathered], None], longest: float
    ) -> None:
        self._limiter = limiter
        self._send = send
        self._longest = longest
        self._loop = asyncio.get_running_loop()
        self._queues: dict[bool, deque[Gathered]] = {False: deque(), True: deque()}
        """By priority: urgent rows do not wait for others."""
        self._look_timer: asyncio.TimerHandle | None = None
        self.starting: set[Batch] = set()
        """Batches that have not asked for a slot yet."""

    def hold(self, gathered: Gathered) -> None:
        """Begin a batch of these rows as soon as few enough others wait, but no later than after `longest` seconds."""
        gathered.since = self._loop.time()
        queue = self._queues[gathered.urgent]
        queue.append(gathered)
        self._begin(queue)
        self._look_later(queue)

    def begin(self, *, urgent: bool) -> None:
        """Begin batches of the rows of a priority, as many as may wait for a slot."""
        if queue := self._queues[urgent]:
            self._begin(queue)

    def take(self, call: Call) -> Gathered | None:
        """Return the next rows of an equal call, if a batch of its priority may begin now; they are held no longer."""
        queue = self._queues[call.urgent]
        # Batches that have begun before ask for a slot first.
        if not queue or queue[0].form[0] != call or self.starting:
            return None
        return queue.popleft() if self._limiter().admits(urgent=call.urgent, besides=0) else None

    def take_all(self) -> list[Gathered]:
        """Return all rows that are held, which are held no longer."""
        taken = [gathered for queue in self._queues.values() for gathered in queue]
        for queue in self._queues.values():
            queue.clear()
        return taken

    def _begin(self, queue: deque[Gathered], until: float = -inf) -> None:
        """Begin batches: as many as may wait, and of all rows that were ready ``until`` then."""
        limiter = self._limiter()
        while queue and (limiter.admits(urgent=queue[0].urgent, besides=len(self.starting)) or queue[0].since <= until):
            self._send(queue.popleft())

    def _look_later(self, queue: deque[Gathered]) -> None:
        if queue and self._look_timer is None:
            self._look_timer = self._loop.call_later(min(_LOOK_AGAIN, self._longest), self._look)

    def _look(self) -> None:
        self._look_timer = None
        for queue in self._queues.values():
            self._begin(queue, until=self._loop.time() - self._longest)
            self._look_later(queue)


def form_of_row(row: Any, depth: int = 0) -> Hashable:
    """Return the key that rows of one request share: type, dtype, shape, and the keys and types of their values.

    Of nested lists only the first item of each level is looked at: rows that are not what they seem to be are found
    when their request fails.
    """
    if isinstance(row, np.ndarray | np.generic):
        items = frozenset(map(type, row.ravel().tolist())) if row.dtype.kind == "O" else None
        return type(row), row.dtype.str, row.shape, items
    if depth < _DEEPEST:
        if isinstance(row, Mapping):
            return frozenset((key, form_of_row(value, depth + 1)) for key, value in row.items())
        if isinstance(row, list | tuple) and row:
            return _form_of_list(row, depth)
    return type(row).__name__


def _form_of_list(row: Sequence[Any], depth: int) -> Hashable:
    kinds = frozenset(map(type, row))
    if kinds == {int, float}:  # the numbers of one row are of one dtype
        kinds = frozenset({float})
    first = row[0]
    if isinstance(first, Mapping):  # messages, say: no tensor, so their number may differ
        return "list", kinds
    if isinstance(first, list | tuple | np.ndarray | np.generic):
        return len(row), kinds, form_of_row(first, depth + 1)
    return len(row), kinds
