"""The recorder: sends every request through another transport, and notes the exchange in a cassette."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from fanout._url import redact_url
from fanout.cassettes.cassette import CassetteWriter, Interaction, digest, key_of, path_of
from fanout.errors import AttemptTimeout, TransportError
from fanout.options import checks_options
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from os import PathLike

    from fanout.transport import Request, RowsSent, Transport
    from fanout.types import Response

_DECISIVE = re.compile(
    "content-type|date|location|inference-header-content-length|metadata|retry-after|retry-after-ms|x-should-retry|.*ratelimit.*",
    re.IGNORECASE,
)


def is_kept_header(name: str) -> bool:
    """Return True for a header field of responses by which fanout decides. No other is stored or shown."""
    return _DECISIVE.fullmatch(name) is not None


@checks_options
class Recorder:
    """Records the exchanges of clients in a new file: ``Client(..., transport=recorder)``. A context manager.

    The file holds the bodies of requests and responses, whole. It holds no header field of requests, and of responses
    only those by which fanout decides; stars replace secrets. Only its owner may read it (mode 0600). It is written as
    the responses come, from the event loop. One recorder may serve several clients.

    Args:
        path: the file, which must not exist.
        headers: other header fields of responses to keep, because your own codec reads them.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str], *, headers: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.recorded = 0
        """Exchanges in the file."""

        self._headers = {name.lower() for name in headers}
        self._cassette = CassetteWriter(self.path)
        self._began: float | None = None

    def wrap(self, transport: Transport) -> Transport:
        """A transport that sends through ``transport`` and records every exchange."""
        return ObservedTransport(self, transport)

    def close(self) -> None:
        """Close the file."""
        self._cassette.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Recorder {self.path} {self.recorded} exchanges>"

    def note(self, request: Request, started: float, outcome: Response | TransportError) -> None:
        """Write one exchange to the file, which began at ``started``. Raises `ConfigError` for a full disk."""
        # Times count from the first request, so that two recordings of one run are alike.
        if self._began is None:
            self._began = started
        # The file holds the redacted bytes, so the digest that names them has to be theirs.
        sent = request.redact(request.joined())
        error, response = (outcome, None) if isinstance(outcome, TransportError) else (None, outcome)
        received = b"" if response is None else request.redact(response.body)
        # Its key is that of the request with its secrets, by which the replayer looks it up.
        original, path = digest(request.body), path_of(request.url)
        interaction = Interaction(
            key=key_of(request.method, path, original),
            method=request.method,
            path=path_of(_redacted(request.url, request.redact)),
            sent=digest([sent]),
            status=None if response is None else response.status,
            headers={} if response is None else self._kept(response, request.redact),
            got="" if response is None else digest([received]),
            error="" if error is None else type(error).__name__,
            text="" if error is None else _redacted(str(error), request.redact),
            at=started - self._began,
            seconds=asyncio.get_running_loop().time() - started,
            rows=_row_ranges(request.rows),
        )
        bodies = {interaction.sent: sent} | ({} if response is None else {interaction.got: received})
        self._cassette.add(interaction, bodies)
        self.recorded += 1

    def _kept(self, response: Response, redact: Callable[[bytes], bytes]) -> dict[str, str]:
        kept = {}
        for name, value in response.headers.items():
            if is_kept_header(name) or name.lower() in self._headers:
                # A redirect may carry credentials in its query, which the redactor does not know.
                shown = redact_url(value) if name.lower() == "location" else value
                kept[str(name)] = _redacted(shown, redact)
        return kept


class Observer(Protocol):
    """An object that notes exchanges: requests, the times at which they began, and their outcomes."""

    def note(self, request: Request, started: float, outcome: Response | TransportError) -> None: ...


class ObservedTransport:
    """Sends through another transport, and lets an observer note each exchange."""

    def __init__(self, observer: Observer, transport: Transport) -> None:
        self._observer = observer
        self._transport = transport

    async def send(self, request: Request) -> Response:
        started = asyncio.get_running_loop().time()
        try:
            response = await self._transport.send(request)
        except TransportError as error:
            self._observer.note(request, started, error)
            raise
        except asyncio.CancelledError:  # by the attempt's deadline, or because the run was cut
            given_up = AttemptTimeout("no whole answer came before the attempt was given up")
            self._observer.note(request, started, given_up)
            raise
        # Noted before the codec sees it: a cassette should also hold responses that no codec can read.
        self._observer.note(request, started, response)
        return response

    def __repr__(self) -> str:
        return f"{self._observer!r} of {self._transport!r}"


def _row_ranges(rows: RowsSent | None) -> tuple[tuple[int, int], ...]:
    """Return start and stop of each unbroken range of the rows in a request."""
    if rows is None:
        return ()
    _, start, stop, where = rows
    if where is None:
        return ((start, stop),)
    if isinstance(where, slice):
        return ((start + where.start, start + where.stop),)
    return tuple(RowSet((row, row + 1) for row in (start + where).tolist()))


def _redacted(text: str, redact: Callable[[bytes], bytes]) -> str:
    return redact(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
