"""Engines: plain processes, Ray and Dask. They carry the description of a shard to a worker, and the outcome back."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.settings import Limits

ENGINES = ("processes", "ray", "dask")


class Engine(ABC):
    """Workers that run shards.

    Attributes:
        name: for messages.
        workers: shards that may run at the same time; known once the engine is open.
    """

    name: str

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or local_processors()

    @abstractmethod
    async def open(self) -> None:
        """Start or find the workers. Raises `ConfigError` if there are none."""

    async def share_rates(self, limits: Limits, key: str) -> dict[str, Any]:
        """Have the workers keep the rates of ``limits`` and cooldowns together, if the engine itself can see to it.

        Returns fields of `Limits` for the workers; none if the rates have to be divided. ``key`` is a name of the run.
        """
        return {}

    @abstractmethod
    async def run(self, shard: str) -> str:
        """Run `run_shard` on a worker, and return what it returns. Raises any exception if the worker is lost.

        A worker may run it again, or go on after this was cancelled.
        """

    @abstractmethod
    async def close(self) -> None:
        """End the workers that `open` has started."""


def local_processors() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def missing_extra(engine: str, extra: str, error: ImportError) -> ConfigError:
    """Return the error for an engine that is not installed."""
    return ConfigError(f"{engine} is not installed ({error.name}): python -m pip install 'fanout-ml[{extra}]'")


def open_engine(target: str, workers: int | None = None) -> Engine:
    """Return the engine for ``processes``, ``ray``, ``dask``, ``ray://ADDRESS`` or ``dask://ADDRESS``, not open yet.

    Args:
        target: the name of the engine, with the address of its cluster; without one, the engine runs on this machine.
        workers: shards that run at the same time; if not given, one for each processor.

    Raises:
        ConfigError: there is no such engine, or it is not installed.
    """
    name, _, _ = target.partition("://")
    address = urlsplit(target).netloc if "://" in target else None
    if address == "" or name not in ENGINES or (name == "processes" and address is not None):
        raise ConfigError(f"--on is processes, ray, dask, ray://HOST:PORT or dask://HOST:PORT, not {target}")
    # Each is imported alone: the others may not be installed.
    if name == "ray":
        from fanout.cluster.engines.on_ray import RayEngine

        return RayEngine(address, workers)
    if name == "dask":
        from fanout.cluster.engines.on_dask import DaskEngine

        return DaskEngine(address, workers)
    from fanout.cluster.engines.processes import ProcessEngine

    return ProcessEngine(workers)
