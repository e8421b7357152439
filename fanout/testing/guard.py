"""The network guard: while it is entered, whoever tries to connect to anything is stopped and told of."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
"""Audit events (PEP 578) of what leaves the process."""

_listening = False
_guards: list[NoNetwork] = []


class NetworkUseError(AssertionError):
    """Something was about to be sent that should not be."""


class NoNetwork:
    """A context manager inside which no connection is made and no name looked up, by nothing that Python does.

    It stops what Python's own sockets do, on all threads; uvloop and other code that brings its own go past it. Unix
    sockets are let through.

    Args:
        allow: hosts that may be talked to all the same, or ``"host:port"``; ``("127.0.0.1",)`` for servers of the test.

    Raises:
        NetworkUseError: where the connection is tried, and at the end if somebody has swallowed it there.
    """

    def __init__(self, allow: Collection[str] = ()) -> None:
        self._allow = frozenset(allow)
        self.refused: list[str] = []
        """What was tried: ``"host:port"``."""

    def __enter__(self) -> Self:
        _listen()
        _guards.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _guards.remove(self)
        if kind is None and self.refused:
            raise NetworkUseError(_told(self.refused))

    def check(self, host: str, port: object) -> None:
        """Raise `NetworkUseError` unless this may be talked to."""
        place = f"{host}:{port}"
        if host not in self._allow and place not in self._allow:
            self.refused.append(place)
            raise NetworkUseError(_told([place]))


def _told(places: list[str]) -> str:
    return f"the test was to use no network, but tried to reach {', '.join(dict.fromkeys(places))}"


def _listen() -> None:
    """Hear of all sockets from now on. An audit hook cannot be taken away, so there is one for all guards."""
    global _listening  # noqa: PLW0603 - it is the process's
    if not _listening:
        sys.addaudithook(_hear)
        _listening = True


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards or event not in _EVENTS:
        return
    address = arguments if event == "socket.getaddrinfo" else arguments[1]
    if isinstance(address, tuple) and len(address) > 1 and address[0]:
        host = address[0].decode() if isinstance(address[0], bytes) else str(address[0])
        for guard in _guards:
            guard.check(host, address[1])
