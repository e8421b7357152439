"""One endpoint as a client addresses it: its URL, header fields, secrets and account.

`EndpointClient` builds the requests; a transport sends them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from fanout._headers import require_headers
from fanout._redact import Redactor, secrets_of
from fanout._url import credentials_in, split_socket, with_socket
from fanout.auth import Authenticator, StaticAuth
from fanout.errors import ConfigError
from fanout.transport.authentication import AuthenticatingTransport
from fanout.transport.base import Cooldown, Request, is_offline, replaces_network
from fanout.transport.compression import CompressingTransport, GzipBody
from fanout.transport.headers import RequestHeaders, credentials_refused
from fanout.transport.http import HttpTransport
from fanout.transport.origins import OtherOrigins, UserTransport, parsed_url, proxy_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multidict import CIMultiDict

    from fanout.addresses import Endpoint
    from fanout.settings import Timeouts
    from fanout.telemetry.spans import SpanTracing
    from fanout.transport.base import RowsSent, Transport, TransportWrapper
    from fanout.transport.headers import CallHeaders, HeaderSource
    from fanout.types import Payload, Response, Verdict


# Statuses of servers that take a body in gzip for damaged JSON, or know no encoding of requests.
_NOT_UNDERSTOOD = (400, 415)


class EndpointClient:
    """Makes requests of payloads and sends them through a transport.

    Args:
        endpoint: the settings of the endpoint.
        url: the URL of its model: the endpoint's, with the codec's path if it has none.
        transport: sends in place of the HTTP transport, or wraps it.
        timeouts: ``connect`` bounds the making of a connection; a part of ``attempt`` the wait for an error's body.
        connections: most connections at once.
        headers: more header fields, or a function that gives them.
        auth: fixed credentials of every request, or an authenticator that obtains them.
        buffers: the bodies of large responses may be bytearrays.
        redactor: learns the secrets of the URL and the header fields; a new one if not given.
        other_origins: origins that `get` may be sent to beside that of ``url``, without credentials.
        tracing: traces the requests as they are sent.

    Raises:
        ConfigError: a certificate file, a header field or the URL cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        url: str,
        *,
        timeouts: Timeouts,
        connections: int,
        transport: Transport | TransportWrapper | None = None,
        headers: HeaderSource | None = None,
        auth: StaticAuth | Authenticator | None = None,
        buffers: bool = False,
        redactor: Redactor | None = None,
        other_origins: Sequence[str] = (),
        tracing: SpanTracing | None = None,
    ) -> None:
        self._socket, self.url = split_socket(url)
        self.redactor = Redactor() if redactor is None else redactor
        self.cooldown = Cooldown()
        """While it lasts nothing is sent. It may begin as a request waits for a connection."""

        self.stamps = endpoint.idempotency_header is not None
        """True if payloads need the idempotency key of `stamped`."""

        self._target = parsed_url(self.url)
        # Each origin has a proxy of its own, so this one gets the setting as it is.
        self._others = OtherOrigins(
            endpoint, transport, timeouts, connections, self.cooldown, other_origins, tracing, self.redactor
        )
        self._endpoint = endpoint = replace(endpoint, proxy=self._proxy_for(endpoint.proxy))
        self._target_text = str(self._target)
        static = auth.headers if isinstance(auth, StaticAuth) else {}
        self._headers = RequestHeaders(endpoint.headers, headers, static, endpoint.request_id_header)
        self._check_headers()
        self._authenticator = auth if isinstance(auth, Authenticator) else None
        self._is_offline = is_offline(transport)
        self._http: HttpTransport | None = None
        if replaces_network(transport):
            sender: Transport = UserTransport(transport)  # type: ignore[arg-type]
            if tracing is not None:
                sender = tracing.transport(sender, self._target_text, self.redactor, is_own=False)
            self._transport = self._below(sender)
        else:
            self._http = HttpTransport(
                endpoint, self._target, timeouts=timeouts, connections=connections, shown_url=self.shown_url,
                cooldown=self.cooldown, buffers=buffers, socket=self._socket,
            )  # fmt: skip
            sender = self._http.fast_path or self._http
            # Innermost, so that each request that is sent is traced, and no recording has the context of a trace.
            if tracing is not None:
                sender = tracing.transport(sender, self._target_text, self.redactor)
            fastest = self._below(sender)
            self._transport = fastest if transport is None else UserTransport(transport.wrap(fastest))  # type: ignore[union-attr]

    @property
    def shown_url(self) -> str:
        """The URL as messages show it, without secrets."""
        return self.shown(self.url)

    def shown(self, url: str) -> str:
        """The URL of a request to this endpoint, as messages show it."""
        return self.redactor.url(with_socket(url, self._socket))

    @property
    def model(self) -> str | None:
        """The name by which every response has to call its model, where one is pinned."""
        return self._endpoint.model

    async def post(
        self, payload: Payload, *, fresh: bool = False, rows: RowsSent | None = None, call: CallHeaders | None = None
    ) -> Response:
        """Send ``payload`` to the model. Raises `TransportError`, and `SendAborted` if nothing was sent.

        Args:
            payload: the encoded rows.
            fresh: send on a new connection.
            rows: the rows in it, for the report of a second answer.
            call: the header fields of the call that they belong to.
        """
        known = self._headers
        # A transport that answers itself checks no credentials, so the function is called only if it refuses some.
        if known.version == 0 and self._http is not None:
            await self.renew_headers()
        body = payload.body if isinstance(payload.body, tuple) else (payload.body,)
        headers = known.by_type.get(payload.content_type) or known.of_type(payload.content_type)
        if call is not None:
            headers = self._with_fields_of(call, headers)
        if payload.headers:
            require_headers(payload.headers)
            headers = headers.copy()
            headers.update(payload.headers)
        if known.id_header is not None:
            headers = known.numbered(headers)
        version = known.version
        url = self._url_with(payload.path) if payload.path else self._target_text
        if self._endpoint.compress is not None and payload.gzip is None:
            payload.gzip = GzipBody()
        response = await self._transport.send(
            Request("POST", url, headers, body, fresh, rows, self.redactor.raw, "", payload.gzip)
        )
        return response if call is None and response.status < 300 else self._received(response, version, call)

    async def get(self, url: str, *, call: CallHeaders | None = None) -> Response:
        """GET ``url``, which must have the endpoint's origin, or one of ``other_origins``.

        The header fields of a ``call`` go to the endpoint's origin only, as its own do.

        Raises `TransportError` and `ConfigError`.
        """
        target = parsed_url(url)
        # A job's URL may be signed, and its responses may repeat the signature.
        self.redactor.add(credentials_in(url), temporary=True)
        # The codec builds this URL from the server's answers, which must not direct credentials elsewhere.
        if target.origin() != self._target.origin():
            if target.origin() in self._others.origins:
                return await self._others.get(target)
            there = self.shown(url)
            raise ConfigError(f"{there} is not at the endpoint's origin: credentials stay at {self.shown_url}")
        if target.raw_user is None and self._target.raw_user is not None:
            # A server that names a URL leaves out the credentials in that of the endpoint.
            target = target.with_user(self._target.user).with_password(self._target.password)
        if self._headers.version == 0 and self._http is not None:
            await self.renew_headers()
        headers, version = self._headers.plain, self._headers.version
        if call is not None:
            headers = self._with_fields_of(call, headers)
        if self._headers.id_header is not None:
            headers = self._headers.numbered(headers)
        response = await self._transport.send(Request("GET", str(target), headers, redact=self.redactor.raw))
        return response if call is None and response.status < 300 else self._received(response, version, call)

    def require_apart(self, call: CallHeaders) -> None:
        """Raise `ConfigError` if the header fields of a call contradict the endpoint's own credentials."""
        self._headers.require_apart(call)
        if self._target.raw_user is not None and "Authorization" in call.fields:
            raise ConfigError(self._credentials_twice(), key="headers")

    def with_remedy(self, verdict: Verdict, payload: Payload) -> Verdict:
        """``verdict`` on a response to ``payload`` of a server that has answered none, with what may be to blame."""
        sent = payload.gzip is not None and payload.gzip.was_sent
        if not sent or verdict.status not in _NOT_UNDERSTOOD:
            return verdict
        remedy = "the body was sent in gzip, which not every server takes: remove endpoint.compress if that is why"
        return replace(verdict, reason=f"{verdict.reason} ({remedy})")

    def may_get(self, url: str) -> bool:
        """True if `get` sends a request to ``url``: its origin is the endpoint's, or one of ``other_origins``."""
        try:
            origin = parsed_url(url).origin()
        except (ConfigError, ValueError):
            return False
        return origin == self._target.origin() or origin in self._others.origins

    @property
    def can_renew_headers(self) -> bool:
        """True where a function gives the header fields, or an authenticator the credentials."""
        return self._headers.can_renew or self._authenticator is not None

    async def renew_headers(self) -> bool:
        """Call the function for header fields again if the newest were refused; False where nothing can be renewed.

        An authenticator renews its credentials when the next request is to be sent.
        """
        if not await self._headers.renew():
            return self._authenticator is not None
        self._check_headers()
        return True

    def refuse_headers(self) -> None:
        """Note that the server has refused the newest header fields, in a response with a status of success."""
        self._headers.refused = self._headers.version
        if self._authenticator is not None:
            self._authenticator.refuse()

    def may_have_expired(self, sent_at: float) -> bool:
        """True if the credentials of a request that was sent then may have been valid when they were obtained."""
        return self._authenticator is not None and not (self._is_offline or self._authenticator.were_fresh(sent_at))

    def shares_account_with(self, other: EndpointClient) -> bool:
        """True if one account pays for both, judged by their credentials, or by the origin if they have none."""
        # All endpoints of a client share its authenticator.
        if self._headers.has_source_of(other._headers) or self._authenticator is not None:
            return True
        if self._socket != other._socket:
            return False
        mine, others = self._credentials(), other._credentials()
        return mine == others if mine or others else self._target.origin() == other._target.origin()

    def stamped(self, payload: Payload) -> Payload:
        """``payload`` with an idempotency key, by which the server recognizes all attempts of it as one request."""
        name = self._endpoint.idempotency_header
        return payload if name is None else replace(payload, headers={**payload.headers, name: uuid4().hex})

    def conceal(self, text: str) -> str:
        """``text``, such as a server's message, on one line, without secrets and control characters."""
        return self.redactor.text(text)

    def on_second_answer(self, report: Callable[[Sequence[RowsSent]], None]) -> None:
        """Call ``report`` when the server turns out to have answered a request twice.

        Its argument are the rows of the last requests that were answered over the server's connections.
        """
        if self._http is not None and self._http.connector is not None:
            self._http.connector.on_second_answer = report

    async def look_over(self) -> None:
        """Look for second answers on the connections that are idle."""
        if self._http is not None and self._http.connector is not None:
            await self._http.connector.look_over()

    async def close(self) -> None:
        """Close every connection. A transport that the user gave stays open: it may serve other clients."""
        if self._authenticator is not None:
            await self._authenticator.close()
        if self._http is not None:
            await self._http.close()
        await self._others.close()

    def __repr__(self) -> str:
        return f"<EndpointClient {self.shown_url}>"

    def _below(self, transport: Transport) -> Transport:
        """``transport`` with what a recorder does not see: credentials, and the compression of bodies."""
        if self._is_offline:
            return transport
        if self._authenticator is not None:
            taken = frozenset({"authorization"}) if self._target.raw_user is not None else frozenset()
            transport = AuthenticatingTransport(transport, self._authenticator, taken)
        return transport if self._endpoint.compress is None else CompressingTransport(transport)

    def _with_fields_of(self, call: CallHeaders, headers: CIMultiDict[str]) -> CIMultiDict[str]:
        # With each request, since the redactor forgets the secrets of calls that ended long ago.
        self.redactor.add(call.secrets, temporary=True)
        return call.onto(headers)

    def _received(self, response: Response, version: int, call: CallHeaders | None) -> Response:
        """Prepare a response for its reader, to a request that had header fields of that ``version``."""
        if call is not None:
            # Added once more: the redactor forgets temporary secrets, and the exchange may have taken long.
            self.redactor.add(call.secrets, temporary=True)
        if response.status < 300:
            return response
        # An error page may repeat the credentials that it was sent.
        response.body = self.redactor.hide_in_body(response.body)
        own = call is not None and call.has_credentials
        if not own and credentials_refused(response.status, response.headers, response.body):
            self._headers.refused = max(self._headers.refused, version)
        return response

    def _credentials(self) -> frozenset[tuple[str, str]]:
        in_url = {"user": self._target.raw_user, "query": self._target.raw_query_string}
        return self._headers.credentials() | {(name, value) for name, value in in_url.items() if value}

    def _check_headers(self) -> None:
        """Learn the secrets in the user's header fields. Raises `ConfigError` for credentials in two places."""
        if self._target.raw_user is not None and "Authorization" in self._headers.plain:
            raise ConfigError(self._credentials_twice(), key="headers")
        # The secrets of earlier fields stay known: responses to requests with them may still come.
        self.redactor.add(secrets_of(self.url, {}))
        self.redactor.add(secrets_of("", self._headers.user), temporary=self._headers.can_renew)

    def _proxy_for(self, setting: str | None) -> str | None:
        # Over a Unix socket, nothing leaves this machine.
        proxy = None if self._socket is not None else proxy_for(setting, self._target)
        self.redactor.add(secrets_of(proxy or "", {}))
        return proxy

    def _credentials_twice(self) -> str:
        return f"{self.shown_url} has credentials in the url and in an Authorization header; leave one of them out"

    def _url_with(self, path: str) -> str:
        """The URL of a request whose rows choose a part of the path."""
        # Behind the endpoint's own path, so that no row reaches the origin.
        base, _, query = self._target_text.partition("#")[0].partition("?")
        path, _, more = path.partition("?")
        query = "&".join(part for part in (query, more) if part)
        return f"{base.rstrip('/')}{path}{'?' if query else ''}{query}"
