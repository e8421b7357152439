"""The seam between fanout and the network: a `Transport` sends one request and returns its whole response.

The HTTP transport, its fast path, the recorder, the replayer and the mock implement it, and so may a user's own class:
``Client(url, transport=...)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.auth import Authenticator
    from fanout.transport.compression import GzipBody
    from fanout.types import Array, Buffer, Response

RowsSent: TypeAlias = "tuple[object, int, int, slice | Array | None]"
"""The rows in a request: the run that they belong to, start and stop of their chunk, and their positions in it (None
for a whole chunk)."""


def unredacted(body: bytes) -> bytes:
    """``body`` as it is: the `Request.redact` of a request without secrets."""
    return body


# Every attempt creates one, and a frozen dataclass takes three times as long to create.
@dataclass(slots=True, unsafe_hash=True)
class Request:
    """One HTTP request, ready to be sent. The repr shows no content."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    """All header fields that fanout sets: the user's, the codec's and the content type."""

    body: tuple[Buffer, ...] = field(repr=False, default=())
    """The buffers of the body, to be sent one after the other."""

    fresh: bool = False
    """Send on a new connection: a kept one has just failed."""

    rows: RowsSent | None = None
    """The rows in the body, by which a transport reports that a server has answered twice, and a cassette is read."""

    redact: Callable[[bytes], bytes] = field(repr=False, compare=False, default=unredacted)
    """Replaces the endpoint's secrets in bytes by stars, for whatever stores or shows them."""

    own_fields: str = field(repr=False, compare=False, default="")
    """Header fields of this request alone, as the lines that are sent, for fanout's own transports. ``headers``, which
    many requests share, has none of them."""

    gzip: GzipBody | None = field(repr=False, compare=False, default=None)
    """Compresses the body, where the HTTP transport is to send it in gzip."""

    def joined(self) -> bytes:
        """The body in one piece."""
        return b"".join(self.body)


class Cooldown:
    """Bars all requests to an endpoint until a time: a ``Retry-After`` holds for every request, not for one."""

    def __init__(self) -> None:
        self.until = 0.0
        """Time of the event loop's clock, in seconds."""

        self.announce: Callable[[], None] | None = None
        """Called after `extend` has moved the end, to keep other processes from the endpoint, too."""

    # Only longer: one server's answers come in any order, and an earlier one may ask for a longer wait.
    def extend(self, until: float) -> None:
        """Bar requests up to ``until``. An end that is already later stays."""
        if until > self.until:
            self.until = until
            if self.announce is not None:
                self.announce()

    def remaining(self, now: float) -> float:
        """Seconds left; 0 if requests are allowed."""
        return self.until - now if self.until > now else 0.0


class Transport(Protocol):
    """Sends requests. One transport may serve several clients."""

    async def send(self, request: Request) -> Response:
        """Send ``request`` and return the whole response, its content encoding removed. Raises `TransportError`."""
        ...


class TransportWrapper(Protocol):
    """Gives a transport that sends through another one, as a `Recorder` does."""

    def wrap(self, transport: Transport) -> Transport:
        """A transport that sends through ``transport``, the HTTP transport of one endpoint."""
        ...


# An exception of its own, which no retry counts: nothing has reached the endpoint.
class SendAborted(Exception):  # noqa: N818 - the client's own decision, no error of the exchange
    """The request was not sent: the endpoint entered a cooldown while the client connected."""


class CredentialsDue(SendAborted):
    """The request was not sent: credentials have to be obtained first.

    Args:
        authenticator: obtains them.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        super().__init__()
        self.authenticator = authenticator


class NoDescriptor(SendAborted):
    """The request was not sent: the process has no file descriptor left for another connection."""


def replaces_network(transport: Transport | TransportWrapper | None) -> bool:
    """True if ``transport`` answers in place of the network, so that no connection and no local server is needed."""
    return transport is not None and not hasattr(transport, "wrap")


def is_offline(transport: Transport | TransportWrapper | None) -> bool:
    """True if ``transport`` declares that it reaches no server (``offline = True``), so it needs no credentials."""
    return bool(getattr(transport, "offline", False))
