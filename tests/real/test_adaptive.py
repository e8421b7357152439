"""Adaptive concurrency before real servers, against every fixed one in the same run. ``pytest -s`` prints the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, Limits, RunStopped, Timeouts
from fanout import codec as codec_by_name

if TYPE_CHECKING:
    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
FIXED = (1, 2, 4, 8, 16, 32, 64)
SECONDS = 5.0
"""Of each fixed concurrency, in two halves; "auto" has four times as long, its search included."""


async def rate(url: str, rows: Any, concurrency: Any, seconds: float, **options: Any) -> tuple[float, int | None]:
    """Rows a second in a run that has more to send than there is time, and the limit that it came to."""
    limits, timeouts = Limits(concurrency=concurrency), Timeouts(run=seconds)
    async with Client(url, limits=limits, timeouts=timeouts, **options) as client:
        with pytest.raises(RunStopped) as caught:
            await client.map(rows)
    assert caught.value.kind == "deadline"
    assert caught.value.result.failures == ()
    return int(caught.value.result.ok.sum()) / seconds, caught.value.result.stats.concurrency


async def compared(name: str, url: str, rows: Any, **options: Any) -> None:
    await rate(url, rows, 4, 2.0, **options)  # the server's first requests are its slowest
    fixed = dict.fromkeys(FIXED, 0.0)
    auto = 0.0
    for _ in range(2):  # interleaved: the machine has other things to do now and then
        for concurrency in FIXED:
            fixed[concurrency] += (await rate(url, rows, concurrency, SECONDS / 2, **options))[0] / 2
        found, limit = await rate(url, rows, "auto", 2 * SECONDS, **options)
        auto += found / 2
    best = max(fixed.values())
    print(f"\n{name:10} rows/s: {', '.join(f'{at}: {rows:.0f}' for at, rows in fixed.items())}; "
          f"auto: {auto:.0f} = {auto / best:.0%}, limit {limit}")  # fmt: skip
    assert auto >= 0.9 * best


async def test_triton_gets_what_it_is_worth(triton: Real, images: np.ndarray) -> None:
    rows = np.tile(images.astype(np.float32), (400, 1))
    await compared("triton", triton.infer("digits"), rows, codec="oip", chunk_rows=16)


async def test_mlserver_gets_what_it_is_worth(mlserver: Real, images: np.ndarray) -> None:
    await compared("mlserver", mlserver.infer("digits"), np.tile(images, (200, 1)), codec="oip", chunk_rows=16)


async def test_an_embeddings_server_gets_what_it_is_worth(embeddings: Real) -> None:
    codec = codec_by_name("openai-embeddings", model="all-MiniLM-L6-v2")
    texts = [f"sentence number {i} of many" for i in range(100_000)]
    await compared("infinity", f"{embeddings.url}/v1/embeddings", texts, codec=codec, chunk_rows=4)
