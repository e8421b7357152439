"""Measure one contender at one workload, in its own process.

``python -m benchmarks.child TASK`` prints the `Cost` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Clock, Cost, Memory, warm_pages
from benchmarks.workloads import workload_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.session import Opener, Session

_ROOM = 64 * 2**20
"""Bytes that a client takes beside the answers, approximately."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The measurement that the process makes."""

    target: str
    """``module:function``, an `Opener`."""

    workload: str
    origin: str
    requests: int
    uvloop: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def main(task: Task) -> Cost:
    """Measure ``task``. Raises `ValueError` if the answers are wrong."""
    module, _, function = task.target.partition(":")
    opener = getattr(import_module(module), function)
    with asyncio.Runner(loop_factory=_loop_factory(task.uvloop)) as runner:
        return runner.run(_measured(task, opener))


async def _measured(task: Task, opener: Opener) -> Cost:
    workload = workload_named(task.workload)
    rows, few = workload.rows(task.requests), workload.rows(min(task.requests, 2 * workload.concurrency))
    # The first session imports everything, and checks that the answers are right.
    async with opener(workload, task.origin, **task.options) as session:
        workload.check(await session.send(workload.rows(1)), 1)
    warm_pages(_ROOM + workload.blank(1).nbytes * len(rows))
    memory = Memory()
    async with opener(workload, task.origin, **task.options) as session:
        await session.send(few)  # opens the connections, and fetches metadata
        before = _units(session)
        clock = Clock()
        values = await session.send(rows)
        cpu, wall = clock.read()
        units = _units(session) - before if session.units else task.requests
        peak, beyond = memory.peak(), memory.beyond(values.nbytes)
    workload.check(values, task.requests)
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
