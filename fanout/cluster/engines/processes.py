"""Plain processes of this machine: each runs this module, and takes shards from its standard input, a line each."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from fanout.cluster.engines import Engine
from fanout.cluster.shard import run_shard
from fanout.engine import RunControl

# Outcomes hold measurements of many endpoints and the texts of errors.
_LONGEST_LINE = 16 * 2**20
_END_SECONDS = 5.0


class ProcessEngine(Engine):
    """Starts a process as soon as a shard needs it, and a new one in place of one that has ended."""

    name = "processes"

    def __init__(self, workers: int | None = None) -> None:
        super().__init__(workers)
        self._idle: list[asyncio.subprocess.Process] = []
        self._busy: set[asyncio.subprocess.Process] = set()

    async def open(self) -> None:
        return

    async def run(self, shard: str) -> str:
        process = self._idle.pop() if self._idle else await self._start()
        self._busy.add(process)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(shard.encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
            if not line.endswith(b"\n"):
                raise ChildProcessError(f"worker {process.pid} ended with code {await process.wait()}")
        # A worker in an unknown state gets no other shard.
        except BaseException:
            self._busy.discard(process)
            await _end(process, gently=False)
            raise
        self._busy.discard(process)
        self._idle.append(process)
        return line.decode()

    async def close(self) -> None:
        await asyncio.gather(*(_end(process) for process in (*self._idle, *self._busy)))
        self._idle.clear()
        self._busy.clear()

    async def _start(self) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C in the terminal reaches the driver alone, which orders its workers to stop.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )


async def _end(process: asyncio.subprocess.Process, *, gently: bool = True) -> None:
    """End a worker: by the end of its input, or at once."""
    assert process.stdin is not None
    process.stdin.close()
    if gently:
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def work() -> None:
    """Run shards until the input ends. The driver is gone then, and a shard under way stops, resumably."""
    # Only outcomes may be on the pipe: what a codec prints goes to stderr.
    outcomes = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    shards: SimpleQueue[tuple[str, RunControl]] = SimpleQueue()

    def read() -> None:
        control = RunControl()
        for line in sys.stdin:
            # The driver sends a shard only after the outcome of the one before.
            control = RunControl()
            shards.put((line, control))
        control.drain("the driver is gone", "interrupted")
        shards.put(("", control))

    Thread(target=read, daemon=True).start()
    while (taken := shards.get())[0]:
        outcomes.write(run_shard(*taken) + "\n")


if __name__ == "__main__":
    work()
