"""Dask: a task for each shard. Needs the extra ``dask``."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any
from uuid import uuid4

from fanout.cluster.engines import Engine, local_processors, missing_extra
from fanout.cluster.shard import run_shard
from fanout.errors import ConfigError

_CONNECT_SECONDS = 30


class DaskEngine(Engine):
    """Runs shards as tasks of a Dask cluster.

    Args:
        address: host and port of the scheduler; None for a new cluster on this machine.
        workers: shards at the same time.
    """

    name = "Dask"

    def __init__(self, address: str | None, workers: int | None = None) -> None:
        try:
            import distributed
        except ImportError as error:
            raise missing_extra("Dask", "dask", error) from None
        super().__init__(workers)
        self._wanted = workers
        self._distributed: Any = distributed
        self._address = address
        self._cluster: Any = None
        self._client: Any = None

    async def open(self) -> None:
        target: Any = None if self._address is None else f"tcp://{self._address}"
        if target is None:
            # A process for each worker: shards in threads of one process would share one processor.
            self._cluster = target = await self._distributed.LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                preload=__name__,
                dashboard_address=None,
                asynchronous=True,
                silence_logs=logging.CRITICAL,
            )
        try:
            self._client = await self._distributed.Client(target, asynchronous=True, timeout=_CONNECT_SECONDS)
        except (OSError, TimeoutError) as error:
            raise ConfigError(f"no Dask scheduler at {self._address}: {error}") from None
        if self._wanted is None and self._address is not None:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self.workers = sum(worker["nthreads"] for worker in workers) or local_processors()

    async def run(self, shard: str) -> str:
        # Each call is a task of its own, also for equal texts.
        future = self._client.submit(run_shard, shard, pure=False, key=f"fanout-{uuid4().hex}")
        try:
            outcome: str = await future
        except asyncio.CancelledError:
            await future.cancel()
            raise
        finally:
            future.release()
        return outcome

    async def close(self) -> None:
        for one in (self._client, self._cluster):
            if one is not None:
                await one.close()


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C in a worker of a local cluster, which preloads this module: the driver orders its workers to stop.

    The terminal sends it to every process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
