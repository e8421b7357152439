"""The queue of tasks that wait for a worker."""

from __future__ import annotations

import asyncio

import numpy as np

from fanout.engine.task import ChunkTask
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
