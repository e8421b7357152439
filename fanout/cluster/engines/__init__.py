"""Engines: plain processes, Ray and Dask."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.cluster.engines.base import Engine

ENGINES = ("processes", "ray", "dask")


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
