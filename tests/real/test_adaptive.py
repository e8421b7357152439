"""Adaptive concurrency before real servers, against fixed ones in the same minutes. ``pytest -s`` has figures."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, Limits, RunStopped, Timeouts
from fanout import codec as codec_by_name

if TYPE_CHECKING:
    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
FIXED = (1, 2, 4, 8, 16, 32, 64)
TURNS = 3
COLLAPSED = 0.25
"""Share of the best below which something is wrong. How near to it "auto" comes is what is printed: a clock proves that
only where the machine has nothing else to do."""

SECONDS = 5.0
"""Of one turn; "auto" has twice as long, in which it has to find out what there is to know."""


async def rate(client: Client, rows: Any) -> float:
    """Rows a second in a run that has more to send than there is time."""
    with pytest.raises(RunStopped) as caught:
        await client.map(rows)
    assert caught.value.kind == "deadline"
    assert caught.value.result.failures == ()
    return caught.value.result.stats.rows_per_second


async def compared(name: str, url: str, rows: Any, **options: Any) -> None:
    """All take turns, in any order, for the machine has other things to do now and then.

    A client is open for all of its turns. The server still works on requests that a run has abandoned: a request that
    waits behind it goes before the next turn.
    """
    rates: dict[int | str, float] = dict.fromkeys([*FIXED, "auto"], 0.0)
    async with AsyncExitStack() as stack:
        clients = {}
        for concurrency in rates:
            timeouts = Timeouts(run=2 * SECONDS if concurrency == "auto" else SECONDS)
            client = Client(url, limits=Limits(concurrency=concurrency), timeouts=timeouts, **options)
            clients[concurrency] = await stack.enter_async_context(client)
        between = await stack.enter_async_context(Client(url, **options))
        await rate(clients[4], rows)  # the server's first requests are its slowest
        for turn in range(TURNS):
            for concurrency in Random(turn).sample(list(clients), len(clients)):
                await between.map(rows[:1])
                rates[concurrency] += await rate(clients[concurrency], rows) / TURNS
        limit = clients["auto"].statistics().concurrency
    auto, best = rates.pop("auto"), max(rates.values())
    shown = ", ".join(f"{concurrency}: {measured:.0f}" for concurrency, measured in rates.items())
    print(f"\n{name:10} rows/s: {shown}; auto: {auto:.0f} = {auto / best:.0%}, limit {limit}")
    assert auto >= COLLAPSED * best


async def test_auto_concurrency_uses_triton_fully(triton: Real, images: np.ndarray) -> None:
    rows = np.tile(images.astype(np.float32), (400, 1))
    await compared("triton", triton.infer("digits"), rows, codec="oip", chunk_rows=16)


async def test_auto_concurrency_uses_mlserver_fully(mlserver: Real, images: np.ndarray) -> None:
    await compared("mlserver", mlserver.infer("digits"), np.tile(images, (200, 1)), codec="oip", chunk_rows=16)


async def test_auto_concurrency_uses_an_embeddings_server_fully(embeddings: Real) -> None:
    codec = codec_by_name("openai-embeddings", model="all-MiniLM-L6-v2")
    texts = [f"sentence number {i} of many" for i in range(20_000)]
    await compared("infinity", f"{embeddings.url}/v1/embeddings", texts, codec=codec, chunk_rows=4)
