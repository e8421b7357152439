"""The queue of tasks that wait for a worker."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fanout.engine.chunker import ChunkTask
from fanout.engine.task_queue import TaskQueue
from fanout.stop import StopEvent
from fanout.types import Chunk


async def test_a_task_that_becomes_due_just_before_a_worker_waits_is_not_left_in_the_queue() -> None:
    """The worker has looked, the task becomes due, and only then the worker waits: no timer would wake it."""
    queue = TaskQueue(StopEvent())
    task = ChunkTask(Chunk(0, 1), np.zeros((1, 1)))
    queue.put(task, -1.0)
    await asyncio.wait_for(queue.wait(all_busy=False), 5)
    assert queue.pop() is task


def numbered(n: int) -> list[ChunkTask]:
    return [ChunkTask(Chunk(i, i + 1), np.zeros((1, 1))) for i in range(n)]


@pytest.mark.virtual_time
async def test_tasks_come_when_they_are_due_and_then_in_their_order() -> None:
    queue, tasks = TaskQueue(StopEvent()), numbered(5)
    for task, delay in zip(tasks, [2.0, 0.0, 1.0, 0.0, 1.0], strict=True):
        queue.put(task, delay)
    assert [queue.pop(), queue.pop(), queue.pop()] == [tasks[1], tasks[3], None]
    await asyncio.sleep(1)
    assert [queue.pop(), queue.pop(), queue.pop()] == [tasks[2], tasks[4], None]
    await asyncio.sleep(1)
    assert [queue.pop(), queue.pop(), len(queue)] == [tasks[0], None, 0]


@pytest.mark.virtual_time
async def test_a_worker_that_waits_is_woken_when_the_first_task_is_due() -> None:
    queue, tasks, now = TaskQueue(StopEvent()), numbered(3), asyncio.get_running_loop().time
    taken: list[tuple[float, ChunkTask]] = []

    async def work() -> None:
        while len(taken) < 3:
            if (task := queue.pop()) is None:
                await queue.wait(all_busy=False)
            else:
                taken.append((now(), task))
        queue.notify_all()

    workers = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.sleep(0)
    assert len(queue.sleepers) == 2
    for task, delay in zip(tasks, [5.0, 2.0, 0.0], strict=True):  # each is due before those that came first
        queue.put(task, delay)
    await asyncio.gather(*workers)
    assert taken == [(0.0, tasks[2]), (2.0, tasks[1]), (5.0, tasks[0])]


@pytest.mark.virtual_time
async def test_a_closed_queue_has_no_task_and_no_timer() -> None:
    queue, (task,) = TaskQueue(StopEvent()), numbered(1)
    queue.put(task, 5.0)
    waiting = asyncio.create_task(queue.wait(all_busy=False))
    await asyncio.sleep(1)
    queue.close()
    await asyncio.sleep(10)
    assert (queue.pop(), len(queue), waiting.done()) == (None, 0, False)
    queue.notify_all()
    await waiting
