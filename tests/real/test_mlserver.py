"""MLServer: JSON alone, null for NaN, and batches in which one bad request fails others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Client, Limits

if TYPE_CHECKING:
    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120, func_only=True)]


async def test_one_bad_row_among_1797_fails_alone(mlserver: Real, images: np.ndarray) -> None:
    """At concurrency 20 the server merges requests, and answers 500 to all that were merged with the bad one."""
    rows = images.copy()
    events: list[Any] = []
    rows[700, 0] = -1
    async with Client(
        mlserver.infer("digits"), codec="oip", limits=Limits(concurrency=20), on_event=events.append
    ) as client:
        result = await client.map(rows, on_error="keep")
        good = await client.map(np.delete(rows, 700, axis=0))
    assert np.flatnonzero(~result.ok).tolist() == [700]
    assert "HTTP 500: builtins.ValueError: a pixel is darker than black" in result.failures[0].reason
    innocent = [event for event in events if event.kind == "retry" and not event.start <= 700 < event.stop]
    assert innocent, "neighbours were failed too, and succeeded later"
    assert np.allclose(result.values[result.ok], good, rtol=0, atol=1e-12)


async def test_no_raw_bytes_are_sent_to_a_server_that_answers_500_to_them(mlserver: Real, images: np.ndarray) -> None:
    async with Client(mlserver.infer("digits"), codec="oip") as client:
        probabilities = await client.map(images)
        assert client.statistics().retries == 0
    assert (probabilities.dtype, probabilities.shape) == (np.dtype("f8"), (1797, 10))
    assert np.allclose(probabilities.sum(axis=1), 1)


async def test_a_null_is_a_nan_that_fails_its_row_or_is_kept(mlserver: Real) -> None:
    rows = np.linspace(0.5, 2, 300, dtype="f4").reshape(100, 3)
    rows[37, 1] = -1
    async with Client(mlserver.infer("logarithm"), codec="oip") as client:
        result = await client.map(rows, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [37]
    async with Client(mlserver.infer("logarithm"), codec=fanout.codec("oip", nonfinite="keep")) as client:
        kept = await client.map(rows)
    assert kept.dtype == np.float32
    assert np.argwhere(np.isnan(kept)).tolist() == [[37, 1]]
    assert np.allclose(kept[result.ok], np.log(rows[result.ok]), rtol=1e-6)
