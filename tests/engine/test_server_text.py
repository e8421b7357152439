"""Whatever a server's text makes a parser raise is an invalid answer of its chunk, or is ignored; no run ends by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanout import Client, Limits, RetryPolicy
from fanout.engine import attempt
from fanout.engine.heeding import Heed
from fanout.testing import MockEndpoint
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(60.0).reshape(20, 3)
ERRORS = [ValueError, RecursionError, KeyError, OverflowError, UnicodeError]


def raising(error: type[Exception]) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("Exceeds the limit (4300 digits)")

    return fail


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("status", [400, 500])
async def test_an_error_page_that_cannot_be_read_fails_its_rows_alone(
    error: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "classify_reply", raising(error))
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(None, *[status] * 2)
        retry = RetryPolicy(max_attempts=2)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=1), retry=retry) as it:
            result = await it.map(X, on_error="keep")
    assert int(result.ok.sum()) >= len(X) - 1
    assert all(f"HTTP {status}: the answer cannot be read ({error.__name__})" in f.reason for f in result.failures)
    assert np.array_equal(result.values[result.ok], X[result.ok] * 2)


@pytest.mark.parametrize("error", ERRORS)
async def test_a_header_that_cannot_be_read_is_ignored(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heed, "__call__", raising(error))
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5) as client:
            assert np.array_equal(await client.map(X), X * 2)
