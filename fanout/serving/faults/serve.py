"""``fanout serve NAME --faults ...``: a packaged model behind a server that misbehaves by chance."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fanout.serving.faults.server import FaultyServer
from fanout.serving.models import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


async def serve_faulty(
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    faults: Mapping[str, float],
    seed: int = 0,
    latency: float = 0.0,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """As `fanout.serving.app.serve`, with ``faults`` by chance. Raises `ConfigError`."""
    worker = ThreadPoolExecutor(1, "model")
    server = FaultyServer(
        load_model(name),
        faults=faults,
        seed=seed,
        latency=latency,
        host=host,
        port=port,
        record=False,
        worker=worker,
    )
    try:
        async with server:
            if on_ready is not None:
                on_ready(server.origin)
            await asyncio.Event().wait()
    finally:
        # Not waited for: a function that hangs must not keep the server from ending.
        worker.shutdown(wait=False, cancel_futures=True)
