"""Origins: their proxies, and requests to other origins than that of an endpoint, such as those of a job's result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from fanout._redact import secrets_of
from fanout._url import redact_url, require_web_url
from fanout.callbacks import awaiting
from fanout.errors import ConfigError
from fanout.transport.base import Request, replaces_network
from fanout.transport.headers import USER_AGENT
from fanout.transport.http import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout._redact import Redactor
    from fanout.addresses import Endpoint
    from fanout.settings import Timeouts
    from fanout.telemetry.spans import SpanTracing
    from fanout.transport.base import Cooldown, Transport, TransportWrapper
    from fanout.types import Response


class UserTransport:
    """Names ``transport=`` in the error of a run that it ends otherwise than by an ordinary exception."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        return await awaiting("transport=", self._transport.send(request))


class OtherOrigins:
    """Sends GETs to other origins than that of an endpoint: with none of its header fields, and without credentials.

    Args:
        endpoint: the settings of connections.
        transport: as for `EndpointClient`.
        cooldown: that of the endpoint.
        origins: those that may be sent to.
        tracing: traces the requests.
        redactor: redacts URLs.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport | TransportWrapper | None,
        timeouts: Timeouts,
        connections: int,
        cooldown: Cooldown,
        origins: Sequence[str],
        tracing: SpanTracing | None,
        redactor: Redactor,
    ) -> None:
        self.origins = frozenset(parsed_url(origin).origin() for origin in origins)
        self._endpoint = endpoint
        self._given = transport
        self._timeouts = timeouts
        self._connections = connections
        self._cooldown = cooldown
        self._tracing = tracing
        self._redactor = redactor
        self._http: dict[URL, HttpTransport] = {}

    async def get(self, target: URL) -> Response:
        """GET ``target``. Raises `TransportError`."""
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        request = Request("GET", str(target), headers, redact=self._redactor.raw)
        return await self._transport(target.origin()).send(request)

    async def close(self) -> None:
        """Close every connection."""
        for http in self._http.values():
            await http.close()

    def _transport(self, origin: URL) -> Transport:
        if replaces_network(self._given):
            return self._traced(UserTransport(self._given), origin)  # type: ignore[arg-type]
        if origin not in self._http:
            endpoint = replace(
                self._endpoint, url=str(origin), headers={}, client_cert=None, client_key=None, request_id_header=None,
                proxy=proxy_for(self._endpoint.proxy, origin),
            )  # fmt: skip
            self._redactor.add(secrets_of(endpoint.proxy or "", {}))
            self._http[origin] = HttpTransport(
                endpoint, origin, timeouts=self._timeouts, connections=self._connections, shown_url=str(origin),
                cooldown=self._cooldown,
            )  # fmt: skip
        http = self._traced(self._http[origin], origin)
        return http if self._given is None else UserTransport(self._given.wrap(http))  # type: ignore[union-attr]

    def _traced(self, transport: Transport, origin: URL) -> Transport:
        # The context of a trace is for the endpoint alone, as its credentials are.
        if self._tracing is None:
            return transport
        return self._tracing.transport(transport, str(origin), self._redactor, propagates=False)


def proxy_for(setting: str | None, url: URL) -> str | None:
    """Return the URL of the proxy for requests to ``url``; None for none.

    With the ``setting`` "env" it is that of HTTP_PROXY or HTTPS_PROXY (in any case; on macOS and Windows the system's
    settings where neither is set), unless NO_PROXY names the host.

    Raises:
        ConfigError: the environment names a proxy that cannot be used.
    """
    if setting != "env":
        return setting
    named = getproxies().get(url.scheme)
    if not named or proxy_bypass(_host_and_port(url)):
        return None
    # curl takes a proxy without a scheme too.
    proxy = named if "://" in named else f"http://{named}"
    try:
        require_web_url(proxy, f"{url.scheme.upper()}_PROXY")
    except ConfigError as error:
        raise ConfigError(f"{error} (endpoint.proxy is 'env')", key="proxy") from None
    return proxy


def _host_and_port(url: URL) -> str:
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


def parsed_url(url: str) -> URL:
    """Parse ``url``. Raises `ConfigError` if it has no origin that could be requested."""
    try:
        result = URL(url)
        result.origin()  # raises where there is none
    except ValueError:
        raise ConfigError(f"{redact_url(url)!r} is not a URL that can be requested", key="url") from None
    return result
