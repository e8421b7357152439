"""The transport: one long-lived HTTP session that turns payloads into whole replies. The only client use of aiohttp.

It never follows a redirect, keeps no cookie, reads no environment, asks for plain bodies and bounds what it reads.
A deadline is its caller's affair, set on the task itself: aiohttp's own timers do not cover every wait.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import zlib
from base64 import b64encode
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus, urlsplit
from weakref import WeakSet

import aiohttp
from aiohttp.payload import Payload as BodyPayload
from multidict import CIMultiDict
from yarl import URL

from fanout._version import __version__
from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ClientStateError,
    ConfigError,
    ConnectError,
    IncompleteReply,
    ReplyTooLarge,
    StaleConnectionError,
    TransportError,
)
from fanout.settings import masked
from fanout.types import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_proto import ResponseHandler

    from fanout.settings import Endpoint, Timeouts
    from fanout.types import Buffer, Payload

_USER_AGENT = f"fanout-ml/{__version__}"
_SHORTEST_SECRET = 6
ERROR_BODY_CAP = 64 * 2**10
"""Bytes read of an answer with an error status: enough to classify it and to quote it."""
_REMEMBERED = 16
"""Content types whose headers are kept; a codec may make up one for each request (multipart boundaries)."""


class Transport:
    """One session to one endpoint. Make it, use it and close it in one event loop."""

    def __init__(self, endpoint: Endpoint, url: str, *, timeouts: Timeouts, connections: int) -> None:
        self.url = url
        self.shown_url = masked(url)
        self.bytes_sent = 0
        self.bytes_received = 0
        self._cap = endpoint.max_response_bytes
        self._target = _parsed(url)
        self._plain_headers = CIMultiDict({"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"})
        self._plain_headers.update(endpoint.headers)
        self._secrets = _secrets(url, endpoint.headers)
        self._headers: dict[str, CIMultiDict[str]] = {}  # content type -> all that a request with it carries
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
            auto_decompress=False,
            trust_env=False,
        )

    async def post(self, payload: Payload, *, fresh: bool = False) -> Reply:
        """Send ``payload`` to the endpoint. ``fresh`` demands a new connection. Raises `TransportError`."""
        data = _Parts(payload.body if isinstance(payload.body, tuple) else (payload.body,))
        headers = self._headers.get(payload.content_type) or self._remember(payload.content_type)
        if payload.headers:
            headers = headers.copy()
            headers.update(payload.headers)
        self.bytes_sent += data.length
        return await self._exchange("POST", self._target, headers, data, fresh)

    async def get(self, url: str) -> Reply:
        """GET ``url``, which must have the endpoint's origin. Raises `TransportError`."""
        target = _parsed(url)
        if target.origin() != self._target.origin():
            raise ConfigError(f"{masked(url)} is not at the endpoint's origin: credentials stay at {self.shown_url}")
        return await self._exchange("GET", target, self._plain_headers, None, fresh=False)

    def conceal(self, text: str) -> str:
        """``text``, a server's words for instance, without any header value or URL part that may be a secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    def _check_open(self) -> None:
        if self._session.closed:
            raise ClientStateError("the client is closed; make a new one") from None

    def _remember(self, content_type: str) -> CIMultiDict[str]:
        headers = self._plain_headers.copy()
        headers["Content-Type"] = content_type
        if len(self._headers) < _REMEMBERED:
            self._headers[content_type] = headers
        return headers

    async def _exchange(self, method: str, url: URL, headers: CIMultiDict[str], data: Any, fresh: bool) -> Reply:
        self._check_open()
        connection = _ConnectionUse(fresh)
        _CONNECTION_USE.set(connection)
        try:
            response = await self._session.request(method, url, data=data, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._check_open()  # it may have been us who ended the exchange
            raise _mapped(error, self.shown_url, reused=connection.reused) from None
        try:
            body = await self._body(response)
        except BaseException as error:
            response.close()
            if isinstance(error, aiohttp.ClientError | OSError) and not isinstance(error, TransportError):
                self._check_open()
                raise _mapped(error, self.shown_url, reused=False) from None
            raise
        self.bytes_received += len(body)
        return Reply(status=response.status, headers=response.headers, body=body, url=str(url))

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if response.status >= 300:
            return await _error_body(response, encoding)
        body = await _read(response, self._cap)
        return body if encoding == "identity" else _decoded(body, encoding, self._cap)


def _secrets(url: str, headers: Mapping[str, str]) -> list[str]:
    """What must not be shown, longest first; short words are left, since they would be found everywhere."""
    parts = urlsplit(url)
    values = [parts.password or "", *(pair.partition("=")[2] or pair for pair in parts.query.split("&"))]
    values += [unquote_plus(value) for value in values]
    if parts.username is not None:  # the header that the session makes of them
        values.append(b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode())
    for value in headers.values():
        values += [value, value.rpartition(" ")[2]]  # with and without its "Bearer"
    return sorted({value for value in values if len(value) >= _SHORTEST_SECRET}, key=len, reverse=True)


class _ConnectionUse:
    """What the connector is asked for, and tells, about the connection of one exchange."""

    __slots__ = ("fresh", "reused")

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.reused = False


_CONNECTION_USE: ContextVar[_ConnectionUse] = ContextVar("fanout_connection_use")


class _Connector(aiohttp.TCPConnector):
    """Hands out no idle connection on which the server has already said something.

    Bytes that arrive on an idle connection would be taken for the answer to the next request, and every later answer
    would be off by one (aiohttp#13656).
    """

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._used_before: WeakSet[Any] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        use = _CONNECTION_USE.get()
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol = connection.protocol
            if protocol not in self._used_before:
                self._used_before.add(protocol)
                _forget(protocol)
                use.reused = False  # it may be aiohttp's own second try, after a reused connection failed it
                return connection
            if not use.fresh and protocol is not None and not protocol.should_close:
                use.reused = True
                return connection
            connection.close()


def _forget(protocol: ResponseHandler | None) -> None:
    """Nobody may be waiting for the end of a connection: asyncio must not complain of how it ended."""
    if protocol is not None and (closed := protocol.closed) is not None:
        closed.add_done_callback(lambda future: future.cancelled() or future.exception())


class _Parts(BodyPayload):
    """A body of some buffers, written one after the other and never joined, as often as it takes."""

    length: int

    def __init__(self, parts: tuple[Buffer, ...]) -> None:
        super().__init__(parts)
        # The length of a view of an array is that of its first axis.
        self.length = self._size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for part in self._value:
            await writer.write(part)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"".join(self._value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)


def _parsed(url: str) -> URL:
    try:
        parsed = URL(url)
        parsed.origin()  # raises where there is none
    except ValueError:
        raise ConfigError(f"{masked(url)!r} is not a URL that can be requested", key="url") from None
    return parsed


async def _read(response: aiohttp.ClientResponse, cap: int) -> bytes:
    body = await _read_up_to(response, cap)
    if len(body) > cap:
        raise ReplyTooLarge(f"the answer is larger than the cap of {cap:,} bytes (max_response_bytes)")
    return body


async def _error_body(response: aiohttp.ClientResponse, encoding: str) -> bytes:
    """What can be had of an error's body. The status and the pushback in the header count whatever became of it."""
    try:
        body = (await _read_up_to(response, ERROR_BODY_CAP))[:ERROR_BODY_CAP]
        return body if encoding == "identity" else _decompressed(body, encoding, ERROR_BODY_CAP)[0]
    except (aiohttp.ClientError, OSError, zlib.error):
        response.close()
        return b""


async def _read_up_to(response: aiohttp.ClientResponse, cap: int) -> bytes:
    """The body; of one larger than ``cap`` a part that is larger, and its connection is closed."""
    content = response.content
    if content.is_eof():  # it all came with the header: no wait, no copy
        return content.read_nowait(-1)
    parts: list[bytes] = []
    size = 0
    with _EndWithConnection(response):
        while size <= cap and (part := await content.readany()):
            parts.append(part)
            size += len(part)
    if size > cap:
        response.close()
    return b"".join(parts)


class _EndWithConnection:
    """Ends the reading of a body whose connection is gone.

    Where the framing breaks in mid-body, aiohttp 3.14 closes the connection and leaves the reader waiting.
    """

    __slots__ = ("_closed", "_content")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        protocol = None if response.connection is None else response.connection.protocol
        self._closed = None if protocol is None else protocol.closed
        self._content = response.content

    def __enter__(self) -> None:
        if self._closed is None:  # gone already
            self._end(None)
        else:
            self._closed.add_done_callback(self._end)

    def __exit__(self, *_: object) -> None:
        if self._closed is not None:
            self._closed.remove_done_callback(self._end)

    def _end(self, _: object) -> None:
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("the framing of the answer is damaged"))


def _decoded(body: bytes, encoding: str, cap: int) -> bytes:
    """The body without its content encoding, which the server applied although it was asked not to."""
    try:
        plain, whole = _decompressed(body, encoding, cap + 1)
    except zlib.error as error:
        raise IncompleteReply(f"the answer is labelled {encoding} but cannot be decompressed ({error})") from None
    if len(plain) > cap:
        raise ReplyTooLarge(f"the answer is larger than the cap of {cap:,} bytes once decompressed")
    if not whole:
        raise IncompleteReply(f"the {encoding} data in the answer breaks off before its end, or goes on behind it")
    return plain


def _decompressed(body: bytes, encoding: str, most: int) -> tuple[bytes, bool]:
    """At most ``most`` bytes of what is compressed in ``body``, and whether its end was reached where it should be."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise IncompleteReply(f"the answer has the content encoding {encoding!r}, which was not asked for")
    decoder = zlib.decompressobj(zlib.MAX_WBITS | (16 if "gzip" in encoding else 0))
    plain = decoder.decompress(body, most)
    return plain, decoder.eof and not decoder.unused_data


def _mapped(error: Exception, url: str, *, reused: bool) -> TransportError | ConfigError:
    """The one place where dependencies' exceptions become ours. Texts are our own: theirs quote URLs whole."""
    certificate = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)
    if isinstance(error, certificate) or isinstance(getattr(error, "os_error", None), ssl.SSLCertVerificationError):
        return CertificateError(f"the certificate of {url} is not valid: {_cause(error)}")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return ConfigError(f"{url} is not a URL that can be requested", key="url")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return ConnectError(f"cannot connect to {url}: {_cause(error)}")
    if isinstance(error, TimeoutError):
        return AttemptTimeout(f"{url} did not answer in time")
    if reused and isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return StaleConnectionError(f"{url} closed a kept-alive connection as it was used again")
    if isinstance(error, aiohttp.ClientError | OSError):
        return IncompleteReply(f"the exchange with {url} broke off: {_cause(error)}")
    return ConfigError(f"the request to {url} cannot be sent: {error}", key="headers")


def _cause(error: Exception) -> str:
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection within the connect timeout"
    if isinstance(inner, OSError) and (words := _system_words(inner)):
        return words
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection before it had answered"
    if isinstance(error, aiohttp.ClientResponseError):
        what = error.message.partition(":")[0]  # behind it stands what the server sent
        return f"no valid HTTP ({what})" if what else "no valid HTTP"
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__


def _system_words(error: OSError) -> str:
    number = error.errno
    # asyncio words its own errors, with the address in them. Name look-up and TLS number theirs from other lists.
    if number is not None and number in errno.errorcode and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(number)
    return error.strerror or ""
