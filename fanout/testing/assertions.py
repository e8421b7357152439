"""Assertions on the requests that a fake endpoint received, whose messages show the request; and on the network.

Within `NoNetwork`, every attempt to connect raises an error that names the address.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType

    from fanout.faults.endpoint import FakeEndpoint

_SHOWN = 60

# Audit events (PEP 578) of connections, datagrams and look-ups of names.
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}

_guards: list[NoNetwork] = []


@checks_options
def attempts_per_chunk(endpoint: FakeEndpoint) -> list[int]:
    """The number of attempts of each body, in the order of first attempts. Chunks with the same rows count as one."""
    # Every attempt sends the same bytes, so equal bodies are attempts of one chunk.
    return list(Counter(request.body for request in endpoint.requests).values())


@checks_options
def assert_attempts(endpoint: FakeEndpoint, *, at_most: int) -> None:
    """No chunk was sent more than ``at_most`` times."""
    for body, times in Counter(request.body for request in endpoint.requests).items():
        shown = repr(body if len(body) <= _SHOWN else body[:_SHOWN] + b"...")
        assert times <= at_most, f"a chunk was sent {times} times, at most {at_most} were allowed: {shown}"


@checks_options
def assert_in_flight(endpoint: FakeEndpoint, *, at_most: int) -> None:
    """Never were more than ``at_most`` requests in flight."""
    most = endpoint.max_in_flight
    assert most <= at_most, f"{most} requests were in flight at once, at most {at_most} were allowed"


@checks_options
def most_in_window(endpoint: FakeEndpoint, seconds: float) -> int:
    """Most requests that came within any ``seconds``, the end of that time not included."""
    times, first, most = sorted(endpoint.times), 0, 0
    for last, now in enumerate(times):
        # Both ends of the window only move forward, so this takes linear time.
        while now - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@checks_options
def assert_rate(endpoint: FakeEndpoint, *, at_most: int, seconds: float = 1.0) -> None:
    """In no window of ``seconds``, wherever it begins, came more than ``at_most`` requests."""
    most = most_in_window(endpoint, seconds)
    assert most <= at_most, f"{most} requests came within {seconds:g} s, at most {at_most} were allowed"


@checks_options
def assert_headers(endpoint: FakeEndpoint, headers: Mapping[str, str | None]) -> None:
    """Every request carried these header fields with these values; None: it did not carry the field."""
    # Without this, a test whose requests never came would pass.
    assert endpoint.requests, "no request came, so none carried headers"
    for number, request in enumerate(endpoint.requests):
        for name, value in headers.items():
            sent = request.header(name)
            assert sent == value, f"request {number} had {name}: {sent!r} where {value!r} was expected"


class NetworkUseError(AssertionError):
    """Code under test tried to use the network."""


@checks_options
class NoNetwork:
    """A context manager inside which Python code makes no connection and looks no name up.

    It stops Python's own sockets, on all threads; uvloop and other code with sockets of its own bypass it. Unix sockets
    are allowed.

    Args:
        allow: hosts that are allowed, or ``"host:port"``; ``("127.0.0.1",)`` for servers of the test.

    Raises:
        NetworkUseError: at the attempt to connect, and at the end if other code has swallowed it there.
    """

    def __init__(self, allow: Collection[str] = ()) -> None:
        self._allow = frozenset(allow)
        self.refused: list[str] = []
        """The addresses that were refused: ``"host:port"``."""

    def __enter__(self) -> Self:
        _watch_sockets()
        _guards.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A guard may be left in another order than guards were entered, by fixtures for instance.
        _guards.remove(self)
        if kind is None and self.refused:
            raise NetworkUseError(_refusal(self.refused))

    def check(self, host: str, port: object) -> None:
        """Raise `NetworkUseError` unless this address is allowed."""
        place = f"{host}:{port}"
        if host not in self._allow and place not in self._allow:
            self.refused.append(place)
            raise NetworkUseError(_refusal([place]))


def _refusal(places: list[str]) -> str:
    return f"the test was to use no network, but tried to reach {', '.join(dict.fromkeys(places))}"


@cache
def _watch_sockets() -> None:
    # An audit hook cannot be removed, so one serves all guards.
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards or event not in _EVENTS:
        return
    address = arguments if event == "socket.getaddrinfo" else arguments[1]
    # A Unix socket has a path in place of host and port, and an empty host binds only.
    if isinstance(address, tuple) and len(address) > 1 and address[0]:
        host = address[0].decode() if isinstance(address[0], bytes) else str(address[0])
        for guard in _guards:
            guard.check(host, address[1])
