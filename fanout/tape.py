"""The tape: what a client's exchanges go through where they are recorded, or answered without a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fanout.types import Buffer, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request as it leaves the client. Neither the headers of the user nor those of the endpoint are in it."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    """Those that the codec has set, the content type included."""

    body: tuple[Buffer, ...] = field(repr=False, default=())

    def joined(self) -> bytes:
        """The body in one piece."""
        return b"".join(self.body)


Send: TypeAlias = "Callable[[], Awaitable[Response]]"
"""Sends the request to the endpoint."""


class Tape(Protocol):
    """Takes part in every exchange of a client: ``Client(..., tape=...)``. One tape may serve several clients."""

    replaces: bool
    """It answers itself: no server is started, no certificate read, no connection made."""

    async def exchange(self, sent: Sent, send: Send, hide: Callable[[bytes], bytes]) -> Response:
        """The answer to ``sent``. ``hide`` puts stars in the place of credentials. Raises `TransportError`."""
        ...
