"""Clusters whose workers are threads of this process, against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from fanout.cluster import Cluster
from fanout.cluster.engines import Engine
from fanout.cluster.shard import run_shard
from fanout.engine import RunControl
from fanout.job import load_job, run_job
from tests.jobs import doubler, write_job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

__all__ = ["doubler", "write_job"]


class Threads(Engine):
    """Runs shards on threads; ``disturb`` may raise, before or after the shard, as if the worker were lost."""

    name = "threads"

    def __init__(self, workers: int = 2) -> None:
        super().__init__(workers)
        self.said: list[str] = []
        self.shards: list[Any] = []
        self.disturb: Callable[[int, str], Awaitable[str]] | None = None

    async def open(self) -> None:
        return

    async def run(self, shard: str) -> str:
        self.shards.append(json.loads(shard))
        number = len(self.shards)
        if self.disturb is not None:
            return await self.disturb(number, shard)
        control = RunControl()
        try:
            return await asyncio.to_thread(run_shard, shard, control)
        finally:
            # A cancelled engine kills its processes; a thread ends by itself.
            control.cut()

    async def close(self) -> None:
        return


@pytest.fixture
def engine():
    return Threads()


@pytest.fixture
def on_cluster(engine):
    """Runs a job on the engine; keywords are those of `run_job`, and ``settings``."""

    async def run(file: Path, *settings: str, **options):
        job = load_job(file, settings)
        names = {name: value for name, value in options.items() if name in ("rows", "mock", "fresh")}
        cluster = Cluster(job, options.pop("engine", engine), settings=settings, say=engine.said.append, **names)
        return await run_job(job, remote=cluster, **options)

    return run


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    """Return the published files of an output, by the rest of their names."""
    paths = (path for path in folder.iterdir() if path.name.startswith(name))
    kept = (path for path in paths if ".report." not in path.name and not path.name.endswith(".journal"))
    return {path.name.removeprefix(name): path.read_bytes() for path in kept}
