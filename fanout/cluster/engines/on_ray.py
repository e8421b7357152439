"""Ray: a task for each shard. Needs the extra ``ray``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from fanout.cluster.engines import Engine, local_processors, missing_extra
from fanout.cluster.shard import run_shard
from fanout.errors import ConfigError
from fanout.limits.shared import Bounds, bounds_of
from fanout.limits.shared_ray import limits_actor

if TYPE_CHECKING:
    from fanout.settings import Limits


class RayEngine(Engine):
    """Runs shards as tasks of a Ray cluster, each with one processor.

    Args:
        address: host and port of the cluster; ``auto`` for that of this machine; None for a new one on this machine.
        workers: shards at the same time.
    """

    name = "Ray"

    def __init__(self, address: str | None, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise missing_extra("Ray", "ray", error) from None
        super().__init__(workers)
        self._wanted = workers
        self._ray: Any = ray
        self._address = address
        self._task: Any = None
        self._limits: Any = None

    async def open(self) -> None:
        await asyncio.to_thread(self._connect)

    def _connect(self) -> None:
        ray = self._ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            options |= {"address": "local", "num_cpus": self.workers, "include_dashboard": False}
        else:
            options["address"] = self._address if self._address == "auto" else f"ray://{self._address}"
        try:
            ray.init(**options)
        # Ray raises many kinds of errors for a cluster that does not answer.
        except Exception as error:  # noqa: BLE001
            # A client that has failed to connect would keep this process from any other cluster.
            with suppress(Exception):
                ray.shutdown()
            raise ConfigError(f"no Ray cluster at {self._address or 'this machine'}: {error}") from None
        if self._wanted is None:
            self.workers = int(ray.cluster_resources().get("CPU", 0)) or local_processors()
        # A lost task is sent again by the driver, under another number.
        self._task = ray.remote(num_cpus=1, max_retries=0)(run_shard)

    async def share_rates(self, limits: Limits, key: str) -> dict[str, Any]:
        url = f"ray://fanout-limits-{key}"
        # The actor belongs to the driver, so that it outlives every worker.
        self._limits = await asyncio.to_thread(limits_actor, url, Bounds(bounds_of(limits).rates))
        return {"shared": url, "shared_key": key}

    async def run(self, shard: str) -> str:
        reference = self._task.remote(shard)
        try:
            outcome: str = await asyncio.wrap_future(reference.future())
        except asyncio.CancelledError:
            await asyncio.to_thread(partial(self._ray.cancel, reference, force=True))
            raise
        return outcome

    async def close(self) -> None:
        await asyncio.to_thread(self._ray.shutdown)
