"""A transport whose exchanges go through a tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yarl import URL

from fanout.settings import require_headers
from fanout.tape import Sent
from fanout.transport.headers import credentials_refused
from fanout.transport.session import Transport

if TYPE_CHECKING:
    from fanout.tape import Send, Tape
    from fanout.transport.connector import RowsSent
    from fanout.types import Payload, Response


class TapedTransport(Transport):
    """As `Transport`, which stays unused where the tape answers itself.

    Args:
        known_as: origin under which exchanges are recorded, so that several endpoints that serve the same model can be
            replayed as one.
    """

    def __init__(self, *arguments: Any, tape: Tape, known_as: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tape = tape
        self._known_as = None if known_as is None or tape.replaces else URL(known_as).origin()

    async def post(self, payload: Payload, *, fresh: bool = False, rows: RowsSent | None = None) -> Response:
        """`Transport.post`, through the tape."""
        body = payload.body if isinstance(payload.body, tuple) else (payload.body,)
        headers = {"Content-Type": payload.content_type, **payload.headers}
        require_headers(headers)
        sent = Sent(method="POST", url=self._recorded(self.url), headers=headers, body=body)
        send = super().post
        return await self._through(sent, lambda: send(payload, fresh=fresh, rows=rows), payload.nbytes)

    async def get(self, url: str) -> Response:
        """`Transport.get`, through the tape."""
        send = super().get
        return await self._through(Sent(method="GET", url=self._recorded(url)), lambda: send(url), 0)

    async def _through(self, sent: Sent, send: Send, length: int) -> Response:
        self._check_open()
        if not self._tape.replaces:
            return await self._tape.exchange(sent, send, self.redactor.raw)
        version = self._given.version
        self.bytes_sent += length
        response = await self._tape.exchange(sent, send, self.redactor.raw)
        self.bytes_received += len(response.body)
        if response.status in (401, 403) and credentials_refused(response.status, response.headers, response.body):
            self._given.refused = max(self._given.refused, version)
        return response

    def _recorded(self, url: str) -> str:
        return url if self._known_as is None else str(self._known_as.join(URL(url).relative()))

    def __repr__(self) -> str:
        return f"<TapedTransport {self.shown_url} {self._tape!r}>"
