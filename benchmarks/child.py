"""One contender at one work, in a process of its own: ``python -m benchmarks.child TASK`` prints the `Cost` as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Clock, Cost, Memory, warm_pages
from benchmarks.works import work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.session import Opener, Session

_ROOM = 64 * 2**20
"""Bytes that a client takes beside the answers, more or less."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the process is to do."""

    target: str
    """``module:function``, an `Opener`."""

    work: str
    origin: str
    requests: int
    uvloop: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def main(task: Task) -> Cost:
    """Do it. Raises `ValueError` when the answers are wrong."""
    module, _, function = task.target.partition(":")
    opener = getattr(import_module(module), function)
    with asyncio.Runner(loop_factory=_loop_factory(task.uvloop)) as runner:
        return runner.run(_measured(task, opener))


async def _measured(task: Task, opener: Opener) -> Cost:
    job = work(task.work)
    rows, few = job.rows(task.requests), job.rows(min(task.requests, 2 * job.concurrency))
    async with opener(job, task.origin, **task.options) as session:  # all is imported after this, and proven right
        job.check(await session.send(job.rows(1)), 1)
    warm_pages(_ROOM + job.blank(1).nbytes * len(rows))
    memory = Memory()
    async with opener(job, task.origin, **task.options) as session:
        await session.send(few)  # connections are made, and the client has learnt what it learns
        before = _units(session)
        clock = Clock()
        values = await session.send(rows)
        cpu, wall = clock.read()
        units = _units(session) - before if session.units else task.requests
        peak, beyond = memory.peak(), memory.beyond(values.nbytes)
    job.check(values, task.requests)
    return Cost(units=units, cpu=cpu, wall=wall, peak=peak, beyond=beyond)


def _units(session: Session) -> int:
    return session.units() if session.units else 0


def _loop_factory(uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not uvloop:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    print(json.dumps(asdict(main(Task(**json.loads(sys.argv[1]))))))
