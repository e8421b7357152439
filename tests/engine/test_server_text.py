"""Whatever a server's text makes a parser raise is an invalid answer of its chunk, or is ignored; no run ends by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from fanout import Client, Limits, RetryPolicy, RowsFailed, RunStopped
from fanout.engine import attempt
from fanout.testing import MockEndpoint, Scripted
from fanout.upstream.reporting import RateLimitHeaders
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
    monkeypatch.setattr(attempt, "classify_response", raising(error))
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
    monkeypatch.setattr(RateLimitHeaders, "apply", raising(error))
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5) as client:
            assert np.array_equal(await client.map(X), X * 2)


SECRET = "tok-0123456789-abcdefghij-KLMNOPQRST"
FILL = ["x", " ", "...", "ä"]


@pytest.mark.parametrize("fill", FILL)
@pytest.mark.parametrize("around", [300, 1000, 1200, 2000, 4000])
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_no_part_of_a_secret_is_shown_where_a_text_is_cut(status: int, around: int, fill: str) -> None:
    """Whichever part of a server's words is shown, and wherever in the secret it ends."""
    retry = RetryPolicy(max_attempts=1)
    headers = {"Authorization": f"Bearer {SECRET}"}
    for cut in range(7, len(SECRET), 7):
        length = (around - cut) // len(fill.encode())
        for text in (fill * length, f"{'.' * 3 * 20}{fill * (length - 60)}"):
            with MockEndpoint(lambda x: x * 2) as mock:
                mock.script(*[Scripted(status=status, body=f"{text}{SECRET} and so on {'y' * 5000}".encode())] * 9)
                async with Client(mock.url(Plain), codec=Plain, headers=headers, retry=retry) as client:
                    with pytest.raises((RowsFailed, RunStopped)) as caught:
                        await client.map(X[:1])
            result = getattr(caught.value, "result")  # noqa: B009 - mypy sees their common base
            reasons = " ".join([str(caught.value), *(failure.reason for failure in result.failures)])
            assert SECRET[:6] not in reasons


async def test_no_part_of_a_secret_is_shown_where_a_field_is_cut() -> None:
    for cut in range(6, len(SECRET)):
        datatype = f"{'D' * (99 - cut)}{SECRET}"
        body = orjson.dumps({"outputs": [{"name": "y", "datatype": datatype, "shape": [1], "data": [1]}]})
        with MockEndpoint(lambda x: x * 2) as mock:
            mock.script(*[Scripted(body=body)] * 9)
            headers, retry = {"Authorization": f"Bearer {SECRET}"}, RetryPolicy(max_attempts=1)
            async with Client(mock.url("oip"), codec="oip", headers=headers, retry=retry) as client:
                with pytest.raises((RowsFailed, RunStopped)) as caught:
                    await client.map(X[:1])
        assert SECRET[:6] not in str(caught.value)
