"""The network guard: a context in which every attempt to connect raises an error that names the address."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

# Audit events (PEP 578) of connections, datagrams and look-ups of names.
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}

_listening = False
_guards: list[NoNetwork] = []


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
        _listen()
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


def _listen() -> None:
    """Watch all sockets from now on. An audit hook cannot be removed, so one serves all guards."""
    global _listening  # noqa: PLW0603 - it is the process's
    if not _listening:
        sys.addaudithook(_hear)
        _listening = True


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards or event not in _EVENTS:
        return
    address = arguments if event == "socket.getaddrinfo" else arguments[1]
    # A Unix socket has a path in place of host and port, and an empty host binds only.
    if isinstance(address, tuple) and len(address) > 1 and address[0]:
        host = address[0].decode() if isinstance(address[0], bytes) else str(address[0])
        for guard in _guards:
            guard.check(host, address[1])
