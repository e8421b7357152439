"""Assertions on the requests that a fake endpoint received: attempts, requests in flight, rate, header fields.

The messages show the request.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.serving.exchange import ServerRequest

_SHOWN = 60


class Witness(Protocol):
    """A log of requests: a `MockEndpoint`, a `FaultServer`, a `MockTransport`."""

    @property
    def requests(self) -> Sequence[ServerRequest]:
        """All that were sent to the model, in order."""
        ...

    @property
    def times(self) -> Sequence[float]:
        """The times at which they came, in seconds of one clock."""
        ...

    @property
    def max_in_flight(self) -> int:
        """Most of them at one moment."""
        ...


@checks_options
def attempts_per_chunk(endpoint: Witness) -> list[int]:
    """The number of attempts of each body, in the order of first attempts. Chunks with the same rows count as one."""
    # Every attempt sends the same bytes, so equal bodies are attempts of one chunk.
    return list(Counter(request.body for request in endpoint.requests).values())


@checks_options
def assert_attempts(endpoint: Witness, *, at_most: int) -> None:
    """No chunk was sent more than ``at_most`` times."""
    for body, times in Counter(request.body for request in endpoint.requests).items():
        assert times <= at_most, f"a chunk was sent {times} times, at most {at_most} were allowed: {_short(body)}"


@checks_options
def assert_in_flight(endpoint: Witness, *, at_most: int) -> None:
    """Never were more than ``at_most`` requests in flight."""
    most = endpoint.max_in_flight
    assert most <= at_most, f"{most} requests were in flight at once, at most {at_most} were allowed"


@checks_options
def most_in_window(endpoint: Witness, seconds: float) -> int:
    """Most requests that came within any ``seconds``, the end of that time not included."""
    times, first, most = sorted(endpoint.times), 0, 0
    for last, now in enumerate(times):
        # Both ends of the window only move forward, so this takes linear time.
        while now - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@checks_options
def assert_rate(endpoint: Witness, *, at_most: int, seconds: float = 1.0) -> None:
    """In no window of ``seconds``, wherever it begins, came more than ``at_most`` requests."""
    most = most_in_window(endpoint, seconds)
    assert most <= at_most, f"{most} requests came within {seconds:g} s, at most {at_most} were allowed"


@checks_options
def assert_headers(endpoint: Witness, headers: Mapping[str, str | None]) -> None:
    """Every request carried these header fields with these values; None: it did not carry the field."""
    # Without this, a test whose requests never came would pass.
    assert endpoint.requests, "no request came, so none carried headers"
    for number, request in enumerate(endpoint.requests):
        for name, value in headers.items():
            sent = request.header(name)
            assert sent == value, f"request {number} had {name}: {sent!r} where {value!r} was expected"


def _short(body: bytes) -> str:
    return repr(body if len(body) <= _SHOWN else body[:_SHOWN] + b"...")
