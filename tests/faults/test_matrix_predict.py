"""Faults of one row among those of many callers: on real sockets too, it is that caller's alone."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from fanout import Limits, RowsFailed
from fanout.testing import FaultServer
from tests.faults.scene import CHUNK, X, client, double, when_asked_for

ROWS = X[: 4 * CHUNK]
BAD = 5


STEPS = [400, 413, 422, 500, "nan", "null", "row-missing", "row-extra", "truncated-json", "reset-before-headers"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_row_that_fails_every_request_it_is_in_fails_its_caller_alone(step: Any) -> None:
    server = FaultServer(double, faults=when_asked_for(BAD, step))
    async with server, client(server, limits=Limits(concurrency=8)) as c:
        outcomes = await asyncio.gather(*(c.predict(row) for row in ROWS), return_exceptions=True)
    assert isinstance(outcomes.pop(BAD), RowsFailed)
    assert np.array_equal(np.array(outcomes), np.delete(ROWS * 2, BAD, 0))
