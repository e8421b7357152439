"""Shared parts of the tests of the fault matrix: rows, a model, and clients with hardly any backoff."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout import Client, Endpoint, Limits, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fanout import Result
    from fanout.serving.exchange import ServerRequest
    from fanout.testing import FaultServer

CHUNK = 64
CHUNKS = 8
X = np.arange(CHUNK * CHUNKS * 3.0).reshape(-1, 3) + 0.5
"""No number in it is whole, so that JSON keeps them apart from integers."""

QUICK = RetryPolicy(max_attempts=4, initial_backoff=0.01, max_backoff=0.05)


def double(x: np.ndarray) -> np.ndarray:
    return np.asarray(x) * 2


def client(server: FaultServer | str, *, codec: Any = "v1", cap: int = 2**20, **options: Any) -> Client:
    """A client with one request in flight and hardly any backoff, unless ``options`` say otherwise."""
    url = server if isinstance(server, str) else server.url(codec if isinstance(codec, str) else codec.name)
    settings: dict[str, Any] = {
        "limits": Limits(concurrency=1),
        "retry": QUICK,
        "timeouts": Timeouts(connect=5, attempt=5),
        "chunk_rows": CHUNK,
    }
    endpoint = Endpoint(url=url, max_response_bytes=cap, ca_file=options.pop("ca_file", None))
    return Client(endpoint, codec=codec, **settings | options)


def when_asked_for(rows: int | range, step: str | int) -> Callable[[ServerRequest], str | int | None]:
    """``step`` for every request in which one of those rows of X is."""
    wanted = {float(X[row, 0]) for row in ([rows] if isinstance(rows, int) else rows)}

    def choose(request: ServerRequest) -> str | int | None:
        return step if any(row[0] in wanted for row in request.json()["instances"]) else None

    return choose


def once_for(rows: Iterable[int], step: str | int) -> Callable[[ServerRequest], str | int | None]:
    """``step`` for the first request in which each of those rows of X is."""
    wanted = {float(X[row, 0]) for row in rows}

    def choose(request: ServerRequest) -> str | int | None:
        hit = {row[0] for row in request.json()["instances"]} & wanted
        wanted.difference_update(hit)
        return step if hit else None

    return choose


def assert_whole(result: Result, expected: np.ndarray | None = None) -> None:
    """Every row is answered, and rightly."""
    assert result.failures == ()
    assert result.pending == ()
    assert result.ok.all()
    assert np.array_equal(result.values, X * 2 if expected is None else expected)


def assert_failed(result: Result, rows: range, expected: np.ndarray | None = None) -> None:
    """Exactly these rows failed, by name; every other one is right."""
    bad = np.zeros(len(result.ok), bool)
    bad[rows.start : rows.stop] = True
    assert np.array_equal(~result.ok, bad)
    assert sorted(row for f in result.failures for row in range(f.start, f.stop)) == list(rows)
    assert all(failure.reason for failure in result.failures)
    if result.values is not None:
        good = (X * 2 if expected is None else expected)[~bad]
        assert np.array_equal(result.values[~bad], good)
        assert np.isnan(result.values[bad]).all()
