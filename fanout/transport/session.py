"""One long-lived HTTP session that turns payloads into whole replies.

It never follows a redirect, keeps no cookie, reads no environment, asks for plain bodies and bounds what it reads.
A deadline is its caller's affair, set on the task itself: aiohttp's own timers do not cover every wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from fanout._redact import Redactor, secrets_of
from fanout._url import redact_url
from fanout._version import __version__
from fanout.descriptors import is_shortage
from fanout.errors import ClientStateError, ConfigError, FanoutError, IncompleteResponse
from fanout.settings import require_headers
from fanout.transport.aiohttp_names import Use, usable
from fanout.transport.bodies import ERROR_BODY_PATIENCE, Parts, length_of, read_body
from fanout.transport.connector import CONNECTION_USE, ConnectionUse, Connector, NoDescriptor, SendAborted
from fanout.transport.direct import Direct, DirectResponse
from fanout.transport.failures import mapped
from fanout.transport.headers import MANY_FIELDS, Headers, credentials_refused, head_limits, require_small_head
from fanout.transport.receiving import Buffers
from fanout.transport.tls import tls_of
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fanout.settings import Endpoint, Timeouts
    from fanout.transport.connector import RowsSent
    from fanout.transport.headers import HeaderSource
    from fanout.types import Buffer, Payload

    Body: TypeAlias = tuple[Buffer, ...]

_USER_AGENT = f"fanout-ml/{__version__}"
_MOST_METADATA = 2**20
"""Bytes that a model's metadata may have, which is parsed on the event loop."""

_REMEMBERED = 16
"""Content types whose headers are kept; a codec may make up one for each request (multipart boundaries)."""


class Transport:
    """One session to one endpoint. Make it, use it and close it in one event loop.

    Args:
        endpoint: where to, and how.
        url: where exactly: the endpoint's URL, with the codec's path if it has none.
        timeouts: of which only ``connect`` is kept here; of ``attempt`` a part bounds the wait for an error's body.
        connections: most connections at once.
        headers: more header fields, or a function that gives them.
        buffers: the bodies of large replies may be bytearrays.
        redactor: learns the secrets of URL and headers; its own if not given.

    Raises:
        ConfigError: a certificate file or the URL cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        url: str,
        *,
        timeouts: Timeouts,
        connections: int,
        headers: HeaderSource | None = None,
        buffers: bool = False,
        redactor: Redactor | None = None,
    ) -> None:
        self.url = url
        self.redactor = Redactor() if redactor is None else redactor
        self.shown_url = self.redactor.url(url)
        self.bytes_sent = 0
        self.bytes_received = 0
        self.model = endpoint.model
        """What every answer has to call its model, where that is pinned."""

        self._endpoint = endpoint
        self._target = _parsed(url)
        self._target_text = str(self._target)
        self._given = Headers(endpoint.headers, headers)
        # Shorter than the deadline, which would make a mere timeout of an answer that has told how long to wait.
        self._patience = min(ERROR_BODY_PATIENCE, timeouts.attempt / 4)
        self._request_id = f"{uuid4().hex}-"
        self._requests = 0
        self._closed = False
        self._withhold: Callable[[], bool] = lambda: False
        self._dress()
        use = usable()
        tls = tls_of(endpoint)
        self._connector = (
            Connector(limit=connections, tls=tls, id_header=endpoint.request_id_header)
            if use >= Use.CONNECTOR
            else None
        )
        limits = head_limits(endpoint.max_header_bytes)
        self._session = aiohttp.ClientSession(
            connector=self._connector or aiohttp.TCPConnector(limit=connections, ssl=tls, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
            auto_decompress=False,
            trust_env=False,
            proxy=endpoint.proxy,
            **limits,
        )
        self._buffers = Buffers() if buffers and use is Use.ALL else None
        self._direct = None
        if self._connector is not None and use is Use.ALL and endpoint.proxy is None:
            self._direct = Direct(self._session, self._connector, self._target, limits)

    def withhold_if(self, shut: Callable[[], bool]) -> None:
        """Ask ``shut`` before anything is written, once there is a connection: if true, `Withheld` is raised."""
        self._withhold = shut
        if self._connector is not None:
            self._connector.withhold = shut

    def on_second_answer(self, report: Callable[[Sequence[RowsSent]], None]) -> None:
        """Call ``report`` when the server turns out to have answered a request twice.

        It is called with the rows of the last requests that were answered over the server's connections.
        """
        if self._connector is not None:
            self._connector.on_second_answer = report

    async def look_over(self) -> None:
        """Look for second answers on the connections that are idle."""
        if self._connector is not None:
            await self._connector.look_over()

    async def post(self, payload: Payload, *, fresh: bool = False, rows: RowsSent | None = None) -> Response:
        """Send ``payload`` to the endpoint. ``fresh`` demands a new connection. Raises `TransportError`.

        ``rows`` are those in it, by which the report of a second answer names them.
        """
        if not self._given.version:
            await self.renew_headers()
        parts = payload.body if isinstance(payload.body, tuple) else (payload.body,)
        length = len(payload.body) if type(payload.body) is bytes else length_of(parts)
        headers = self._headers.get(payload.content_type) or self._remember(payload.content_type)
        if payload.headers:
            require_headers(payload.headers)
            headers = headers.copy()
            headers.update(payload.headers)
        self.bytes_sent += length
        try:
            return await self._exchange("POST", self._target, headers, parts, length, fresh, rows)
        except SendAborted:
            self.bytes_sent -= length
            raise

    async def get(self, url: str) -> Response:
        """GET ``url``, which must have the endpoint's origin. Raises `TransportError`."""
        target = _parsed(url)
        if target.origin() != self._target.origin():
            there = self.redactor.url(url)
            raise ConfigError(f"{there} is not at the endpoint's origin: credentials stay at {self.shown_url}")
        if not self._given.version:
            await self.renew_headers()
        return await self._exchange("GET", target, self._plain_headers, None, 0, fresh=False)

    @property
    def can_renew_headers(self) -> bool:
        """True where a function gives the headers."""
        return self._given.can_renew

    def refuse_headers(self) -> None:
        """Note that the server has refused the newest headers, in an answer that says success."""
        self._given.refused = self._given.version

    def shares_account_with(self, other: Transport) -> bool:
        """True if both are paid for by one account, as far as can be seen: by credentials, else by the origin."""
        if self._given.has_source_of(other._given):
            return True
        mine, others = self._credentials(), other._credentials()
        return mine == others if mine or others else self._target.origin() == other._target.origin()

    def _credentials(self) -> frozenset[tuple[str, str]]:
        return self._given.credentials() | {
            (name, value)
            for name, value in (("user", self._target.raw_user), ("query", self._target.raw_query_string))
            if value
        }

    async def renew_headers(self) -> bool:
        """Ask for new headers where the server has refused these; False where nobody can be asked."""
        if not await self._given.renew():
            return False
        self._dress()
        return True

    def stamped(self, payload: Payload) -> Payload:
        """``payload`` with a key by which the server can tell that all attempts of it are one."""
        name = self._endpoint.idempotency_header
        return payload if name is None else replace(payload, headers={**payload.headers, name: uuid4().hex})

    def conceal(self, text: str) -> str:
        """``text``, a server's words for instance, on one line, without secrets and control characters."""
        return self.redactor.text(text)

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        await self._session.close()

    def _dress(self) -> None:
        self._plain_headers = CIMultiDict({"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"})
        self._plain_headers.update(self._given.fields)
        if self._target.raw_user is not None and "Authorization" in self._plain_headers:
            raise ConfigError(
                f"{self.shown_url} has credentials in the url and in an Authorization header; leave one of them out",
                key="headers",
            )
        self._headers: dict[str, CIMultiDict[str]] = {}  # content type -> all that a request with it carries
        # Those of earlier headers stay known: answers to requests with them may still come.
        self.redactor.add(secrets_of(self.url, self._given.fields))
        self.redactor.add(secrets_of(self._endpoint.proxy or "", {}))

    def _remember(self, content_type: str) -> CIMultiDict[str]:
        require_headers({"Content-Type": content_type})
        headers = self._plain_headers.copy()
        headers["Content-Type"] = content_type
        if len(self._headers) < _REMEMBERED:
            self._headers[content_type] = headers
        return headers

    def _check_open(self) -> None:
        if self._closed:
            raise ClientStateError("the client is closed; make a new one") from None

    async def _exchange(
        self,
        method: str,
        url: URL,
        headers: CIMultiDict[str],
        parts: Body | None,
        length: int,
        fresh: bool,
        rows: RowsSent | None = None,
    ) -> Response:
        self._check_open()
        version = self._given.version
        connection = ConnectionUse(fresh)
        if self._endpoint.request_id_header is not None:
            headers = self._numbered(headers, self._endpoint.request_id_header)
        response: aiohttp.ClientResponse | DirectResponse | None = None
        try:
            # Not in a function of its own, which would cost a small request one more call.
            if parts is not None and self._direct is not None and self._direct.takes(headers, length):
                response = await self._direct.post(parts, length, connection)
            else:
                response = await self._through_session(method, url, headers, parts, connection)
            if len(response.headers) > MANY_FIELDS:
                require_small_head(response.headers, self._endpoint.max_header_bytes)
            if self._endpoint.request_id_header is not None:
                _check_id(self._endpoint.request_id_header, headers, response)
            most = self._endpoint.max_response_bytes
            cap = most if parts is not None else min(most, _MOST_METADATA)
            body = await read_body(response, cap, self._patience, self._buffers)
        except BaseException as error:
            if response is not None:
                response.close()
            connection.kept = None  # else the error that the connection keeps would keep a buffer through this frame
            # Whatever a server's bytes make a parser raise is this exchange's failure. An assertion is a test's.
            if not isinstance(error, Exception) or isinstance(error, FanoutError | SendAborted | AssertionError):
                raise
            self._check_open()  # it may have been us who ended the exchange
            if response is None and is_shortage(error):
                raise NoDescriptor from None
            raise mapped(error, self.shown_url, reused=connection.reused and response is None) from None
        if self._connector is not None:
            self._connector.ended(connection, rows if response.status < 300 else None)
        return self._replied(response, body, url, version)

    def _through_session(
        self, method: str, url: URL, headers: CIMultiDict[str], parts: Body | None, connection: ConnectionUse
    ) -> Awaitable[aiohttp.ClientResponse]:
        """Send a request by aiohttp's own session. To be awaited for the head of the answer."""
        if self._connector is None and self._withhold():
            raise SendAborted
        CONNECTION_USE.set(connection)
        data = None if parts is None else Parts(parts)
        return self._session.request(method, url, data=data, headers=headers, allow_redirects=False)

    def _replied(
        self, response: aiohttp.ClientResponse | DirectResponse, body: bytes, url: URL, version: int
    ) -> Response:
        """The reply to a request that had headers of that ``version``."""
        shown = self._target_text if url is self._target else str(url)
        self.bytes_received += len(body)
        if response.status >= 300:  # an error page holds no answer, but may repeat what it was sent
            body = self.redactor.hide_in_body(body)
        if response.status in (401, 403) and credentials_refused(response.status, response.headers, body):
            self._given.refused = max(self._given.refused, version)
        return Response(status=response.status, headers=response.headers, body=body, url=shown)

    def _numbered(self, headers: CIMultiDict[str], name: str) -> CIMultiDict[str]:
        self._requests += 1
        headers = headers.copy()
        headers[name] = f"{self._request_id}{self._requests}"
        return headers


def _check_id(name: str, sent: CIMultiDict[str], response: aiohttp.ClientResponse | DirectResponse) -> None:
    if response.headers.get(name, sent[name]) != sent[name]:
        raise IncompleteResponse(f"the answer belongs to another request: its {name} is not the one that was sent")


def _parsed(url: str) -> URL:
    try:
        parsed = URL(url)
        parsed.origin()  # raises where there is none
    except ValueError:
        raise ConfigError(f"{redact_url(url)!r} is not a URL that can be requested", key="url") from None
    return parsed
