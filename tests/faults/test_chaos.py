"""Chaos: one request in five goes wrong, in all the ways that a retry can mend, and the array is as if none had."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Limits, RetryPolicy, Timeouts
from fanout.serving.exchange import StatusError
from fanout.testing import FaultServer
from tests.faults.scene import client

if TYPE_CHECKING:
    from collections.abc import Callable

FAULTS = {
    "refused:0.2": 0.001,
    "silence": 0.01,
    "drip:0.05": 0.01,
    "reset-before-headers": 0.02,
    "reset-mid-body": 0.02,
    "short-body": 0.015,
    "chunked-without-end": 0.01,
    "close-delimited-cut": 0.01,
    "small-content-length": 0.01,
    "two-content-lengths": 0.005,
    "length-and-chunked": 0.005,
    "408-idle": 0.01,
    "close-on-reuse": 0.01,
    "gzip-cut": 0.005,
    "gzip-no-crc": 0.005,
    "gzip-bad-crc": 0.005,
    "gzip-not": 0.005,
    "huge-header": 0.01,
    "truncated-json": 0.01,
    "200-error": 0.005,
    "html": 0.005,
    "row-missing": 0.005,
    "row-extra": 0.005,
    "one-row": 0.004,
}
PATIENT = RetryPolicy(max_attempts=20, initial_backoff=0.05, max_backoff=1)
"""By chance no body meets more than two faults in a row, but an outage (refused) meets all that are under way."""


def formula(x: np.ndarray) -> np.ndarray:
    return x * 1.1 + 0.3


def poisoned_by(rows: np.ndarray) -> Callable[[Any], np.ndarray]:
    """`formula`, which takes no request with one of these rows in it."""
    firsts = rows[:, 0]

    def model(x: Any) -> np.ndarray:
        given = np.asarray(x)
        if np.isin(given[:, 0], firsts).any():
            raise StatusError(422, "poison")
        return formula(given)

    return model


async def chaos(n_rows: int, *, chunk_rows: int, concurrency: int, seed: int, seconds: float) -> None:
    rows = np.random.default_rng(seed).random((n_rows, 4)) + 0.1
    poison = np.sort(np.random.default_rng(~seed % 2**32).choice(n_rows, 5, replace=False))
    expected = formula(rows)
    expected[poison] = np.nan
    async with (
        FaultServer(poisoned_by(rows[poison]), faults=FAULTS, seed=seed, record=False) as server,
        client(
            server,
            chunk_rows=chunk_rows,
            limits=Limits(concurrency=concurrency),
            retry=PATIENT,
            timeouts=Timeouts(connect=1, attempt=1),
        ) as c,
        asyncio.timeout(seconds),
    ):
        result = await c.map(rows, on_error="keep")
    print(f"{n_rows} rows, seed {seed}: {result.stats}, {dict(server.hits)}")  # noqa: T201 - shown by pytest -s
    assert result.values.tobytes() == expected.tobytes()
    assert [(f.start, f.stop, f.status) for f in result.failures] == [(row, row + 1, 422) for row in poison]
    assert result.pending == ()
    assert np.array_equal(np.flatnonzero(~result.ok), poison)
    assert server.max_in_flight <= 2 * concurrency, "the server may still be at work on what has timed out"
    assert result.stats.max_in_flight <= concurrency
    assert 0.1 < sum(server.hits.values()) / server.received < 0.3


async def test_chaos_leaves_no_trace_in_the_array() -> None:
    await chaos(2_500, chunk_rows=16, concurrency=16, seed=1, seconds=50)


@pytest.mark.slow
async def test_chaos_of_more_requests_leaves_no_trace_in_the_array() -> None:
    await chaos(25_000, chunk_rows=32, concurrency=32, seed=2, seconds=50)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_chaos_at_length_leaves_no_trace_in_the_array(seed: int) -> None:
    await chaos(200_000, chunk_rows=64, concurrency=64, seed=seed, seconds=250)
