"""The HTTP transport: one long-lived aiohttp session to one endpoint.

It follows no redirect, keeps no cookie, reads no environment, asks for unencoded bodies and bounds their size. The
caller sets a deadline on the task itself: aiohttp's own timers do not cover every wait.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import TYPE_CHECKING, Any, TypedDict

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from fanout.errors import ClientStateError, ConfigError, IncompleteResponse, MismatchedResponse
from fanout.process import is_shortage
from fanout.transport.aiohttp_names import Use, usable
from fanout.transport.base import NoDescriptor, SendAborted
from fanout.transport.bodies import ERROR_BODY_PATIENCE, Parts, read_body
from fanout.transport.buffers import Buffers
from fanout.transport.connections import CONNECTION_USE, ConnectionUse, Connector, SocketConnector
from fanout.transport.failures import mapped, passes
from fanout.transport.fast_path import FastPath, IdleConnections
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.addresses import Endpoint
    from fanout.settings import Timeouts
    from fanout.transport.base import Cooldown, Request
    from fanout.transport.fast_path import FastResponse

# Bytes that a model's metadata may have, which is parsed on the event loop.
_MOST_METADATA = 2**20

# More fields than most responses have: only then the whole header is measured.
MANY_FIELDS = 64

_LEAST_FIELDS = 128
_BYTES_A_FIELD = 64


class HttpTransport:
    """Sends requests to one endpoint. Make it, use it and close it in one event loop.

    Args:
        endpoint: the settings of the endpoint.
        url: the URL to which the fast path sends.
        timeouts: ``connect`` bounds the making of a connection; a part of ``attempt`` the wait for an error's body.
        connections: most connections at once.
        shown_url: the URL as messages show it.
        cooldown: checked once there is a connection, since making one may take long; `SendAborted` is raised then.
        buffers: the bodies of large responses may be bytearrays.
        socket: the path of the Unix socket over which requests go.

    Raises:
        ConfigError: a certificate file cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        url: URL,
        *,
        timeouts: Timeouts,
        connections: int,
        shown_url: str,
        cooldown: Cooldown,
        buffers: bool = False,
        socket: str | None = None,
    ) -> None:
        self.closed = False
        self.cap = endpoint.max_response_bytes
        self._endpoint = endpoint
        self._shown_url = shown_url
        # Shorter than the deadline, which would make a mere timeout of a response that says how long to wait.
        self._patience = min(ERROR_BODY_PATIENCE, timeouts.attempt / 4)
        self._cooldown = cooldown
        use, limits = usable(), _head_limits(endpoint.max_header_bytes)
        where: dict[str, Any] = {"ssl": _tls_of(endpoint)} if socket is None else {"path": _usable_socket(socket)}
        self.connector: Connector | SocketConnector | None = None
        if use >= Use.CONNECTOR:
            make = Connector if socket is None else SocketConnector
            self.connector = make(limit=connections, cooldown=cooldown, id_header=endpoint.request_id_header, **where)
        plain = aiohttp.TCPConnector if socket is None else aiohttp.UnixConnector
        self._session = aiohttp.ClientSession(
            connector=self.connector or plain(limit=connections, force_close=True, **where),
            # A cookie would make requests depend on each other, and may be a credential.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
            auto_decompress=False,
            # A proxy of the environment would see the credentials without the user's knowledge.
            trust_env=False,
            proxy=endpoint.proxy,
            **limits,
        )
        self._buffers = Buffers() if buffers and use is Use.ALL else None
        self.fast_path: FastPath | None = None
        """A quicker transport for small requests to the URL, which leaves all others to this one."""

        if self.connector is not None and use is Use.ALL and endpoint.proxy is None and url.raw_user is None:
            id_header = endpoint.request_id_header
            idle = IdleConnections(self.connector, cooldown)
            self.fast_path = FastPath(self, idle, url, self._session.timeout, limits, id_header=id_header)

    async def send(self, request: Request) -> Response:
        """Send ``request`` through the session. Raises `TransportError`, and `SendAborted` if nothing was sent."""
        self.require_open()
        use = ConnectionUse(request.fresh)
        response: aiohttp.ClientResponse | None = None
        try:
            if self.connector is None and self._cooldown.until > asyncio.get_running_loop().time():
                raise SendAborted
            CONNECTION_USE.set(use)
            response = await self._session.request(
                request.method,
                URL(request.url),
                data=None if request.method == "GET" else Parts(request.body),
                headers=_all_headers(request),
                allow_redirects=False,
            )
            body = await self.read(request, response)
        except BaseException as error:
            if response is not None:
                response.close()
            use.connection = None  # else the error that the connection keeps would keep a buffer through this frame
            if passes(error):
                raise
            raise self.failure(error, reused=use.reused and response is None) from None
        if self.connector is not None:
            self.connector.ended(use, request.rows if response.status < 300 else None)
        return Response(status=response.status, headers=response.headers, body=body, url=request.url)

    async def read(self, request: Request, response: aiohttp.ClientResponse | FastResponse) -> bytes:
        """Check the header of ``response`` and read its body. Raises `FanoutError` and aiohttp's errors."""
        if len(response.headers) > MANY_FIELDS:
            _require_small_head(response.headers, self._endpoint.max_header_bytes)
        name = self._endpoint.request_id_header
        if name is not None and response.headers.get(name, request.headers[name]) != request.headers[name]:
            raise MismatchedResponse(f"the answer belongs to another request: its {name} is not the one that was sent")
        cap = min(self.cap, _MOST_METADATA) if request.method == "GET" else self.cap
        return await read_body(response, cap, self._patience, self._buffers)

    def failure(self, error: BaseException, *, reused: bool) -> Exception:
        """The exception to raise for ``error``, which ended an exchange and does not pass.

        ``reused`` says that a kept connection failed before any byte of a response.
        """
        if self.closed:  # closing the transport may have ended the exchange
            return _closed_error()
        if is_shortage(error):
            return NoDescriptor()
        assert isinstance(error, Exception)
        return mapped(error, self._shown_url, reused=reused)

    def require_open(self) -> None:
        """Raise `ClientStateError` if the transport is closed."""
        if self.closed:
            raise _closed_error()

    async def close(self) -> None:
        """Close every connection."""
        self.closed = True
        await self._session.close()

    def __repr__(self) -> str:
        return f"<HttpTransport {self._shown_url}{' closed' if self.closed else ''}>"


def _all_headers(request: Request) -> Mapping[str, str]:
    """All header fields of a request."""
    if not request.own_fields:
        return request.headers
    headers = CIMultiDict(request.headers)
    for line in request.own_fields.splitlines():
        name, _, headers[name] = line.partition(": ")
    return headers


class HeadLimits(TypedDict):
    """aiohttp's names for its limits on the header of a response."""

    max_line_size: int
    max_field_size: int
    max_headers: int


def _head_limits(most: int) -> HeadLimits:
    """aiohttp's limits for a header of at most ``most`` bytes: it bounds each field, and the number of fields."""
    fields = max(_LEAST_FIELDS, most // _BYTES_A_FIELD)
    return {"max_line_size": most, "max_field_size": most, "max_headers": fields}


def _require_small_head(headers: Mapping[str, str], most: int) -> None:
    if sum(len(name) + len(value) for name, value in headers.items()) > most:
        raise IncompleteResponse(f"the header of the answer is larger than {most:,} bytes (max_header_bytes)")


def _usable_socket(path: str) -> str:
    if sys.platform == "win32":
        raise ConfigError(f"url: there are no Unix sockets on this system, so {path} cannot be used", key="url")
    return path


def _tls_of(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """A context with the endpoint's own certificates; True (the system's defaults) where it has none."""
    if endpoint.ca_file is None and endpoint.client_cert is None:
        return True
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
    except OSError as error:
        raise _unusable("ca_file", endpoint.ca_file, error) from None
    if endpoint.client_cert is not None:
        try:
            context.load_cert_chain(endpoint.client_cert, endpoint.client_key)
        except OSError as error:
            raise _unusable("client_cert", endpoint.client_cert, error) from None
    return context


def _unusable(key: str, path: str | None, error: OSError) -> ConfigError:
    why = "it holds no certificate, or not its key (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
    return ConfigError(f"{key}: {path} cannot be used: {why}", key=key)


def _closed_error() -> ClientStateError:
    return ClientStateError("the client is closed; make a new one")
