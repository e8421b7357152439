"""Endpoints of a client: from its argument to the URLs that requests go to, their local servers, and their group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from fanout._url import LOCAL, redact_url, split_socket, with_socket
from fanout.addresses import Endpoint, Endpoints
from fanout.auth import Authenticator, StaticAuth
from fanout.engine import EndpointGroup
from fanout.engine.validator import ResponseDecoder
from fanout.errors import ConfigError
from fanout.limits import RateLimiter, TokenMeter
from fanout.transport import EndpointClient
from fanout.transport.base import is_offline

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout._redact import Redactor
    from fanout.auth import Auth
    from fanout.client.options import ClientSettings
    from fanout.codecs.base import Codec
    from fanout.engine.hedging import Hedger
    from fanout.presets import Preset
    from fanout.serving.local import LocalServer
    from fanout.settings import Hedge

# Stands for the origin of a local server that is not started; the name can never be resolved (RFC 6761).
_NO_SERVER = "http://local.invalid"


class Target(NamedTuple):
    """An endpoint, the URL that its requests go to, and its weight."""

    endpoint: Endpoint
    url: str
    weight: float


def each_endpoint(endpoints: Endpoints, preset: Preset | None = None) -> list[tuple[Endpoint, float]]:
    """Return every endpoint with its weight, as the preset completes it.

    Raises `ConfigError` if there is none, or if one is given twice.
    """
    # A str is a sequence too.
    several = [endpoints] if isinstance(endpoints, str) or not isinstance(endpoints, Sequence) else endpoints
    each = [pair for endpoint in several for pair in _endpoint(endpoint).each()]
    if preset is not None:
        each = [(preset.endpoint(endpoint), weight) for endpoint, weight in each]
    urls = [endpoint.url for endpoint, _ in each]
    if not urls:
        raise ConfigError("endpoint must name at least one URL", key="url")
    if len(set(urls)) < len(urls):
        raise ConfigError(f"an endpoint is given twice: {', '.join(map(redact_url, urls))}", key="url")
    return each


def request_url(url: str, path: str, model: str | None = None) -> str:
    """Return ``url``, or ``url`` + ``path`` if it is a bare origin. ``{model}`` in the path stands for ``model``.

    Raises `ConfigError` if the path needs the name of a model and none is given.
    """
    socket, http = split_socket(url)
    parts = urlsplit(http)
    if parts.path not in ("", "/") or not path:
        return url
    if "{model}" in path:
        if model is None:
            whole = parts._replace(path=path.replace("{model}", "NAME")).geturl()
            example = redact_url(with_socket(whole, socket))
            raise ConfigError(f"the url {redact_url(url)} names no model; write it whole, like {example}", key="url")
        # The name of a local function, package.module:function, stays readable in the URL.
        path = path.replace("{model}", quote(model, safe=":."))
    return with_socket(parts._replace(path=path).geturl(), socket)


def offline_url(url: str, path: str) -> str:
    """Return the same for an endpoint that is replaced by a recording or a mock, so that no local server is started."""
    if not url.startswith(LOCAL):
        return request_url(url, path)
    return request_url(_NO_SERVER, path, url.removeprefix(LOCAL))


def offline_targets(endpoints: Sequence[tuple[Endpoint, float]], codec: Codec) -> list[Target]:
    """Return the targets of endpoints that are replaced by a recording or a mock."""
    # Nothing connects, so the files with certificates need not exist.
    return [
        Target(
            replace(endpoint, ca_file=None, client_cert=None, client_key=None, proxy=None),
            offline_url(endpoint.url, codec.path),
            weight,
        )
        for endpoint, weight in endpoints
    ]


async def start_targets(
    endpoints: Sequence[tuple[Endpoint, float]], codec: Codec, servers: list[LocalServer]
) -> list[Target]:
    """Return the targets; start a server for each ``local://`` endpoint and add it to ``servers``.

    The caller stops ``servers``, also if this raises: some may have started already.
    """
    targets = []
    for given, weight in endpoints:
        # A proxy of the environment does not reach this machine's own ports.
        endpoint = replace(given, proxy=None) if given.url.startswith(LOCAL) else given
        if endpoint.url.startswith(LOCAL):
            # Only local:// endpoints need the packaged server.
            from fanout.serving.local import LocalServer

            server = LocalServer(endpoint.url.removeprefix(LOCAL))
            # Before it starts, so that the caller can stop a server whose start fails.
            servers.append(server)
            url = request_url(await server.start(), codec.path, server.model)
        else:
            url = request_url(endpoint.url, codec.path)
        targets.append(Target(endpoint, url, weight))
    return targets


def _endpoint(endpoint: object) -> Endpoint:
    if isinstance(endpoint, Endpoint):
        return endpoint
    if isinstance(endpoint, str):
        return Endpoint(url=endpoint)
    raise ConfigError(
        f"endpoint must be a URL, a fanout.Endpoint or a list of those, not {type(endpoint).__name__} "
        "(in map, rows come first)",
        key="endpoint",
    )


def endpoint_group(
    targets: Sequence[Target],
    codec: Codec,
    settings: ClientSettings,
    count_tokens: Callable[[Any], float] | None,
) -> EndpointGroup:
    """Make the endpoints and the limits that all runs of a client share. ``count_tokens`` gives those of a row."""
    assert settings.retry is not None
    assert settings.timeouts is not None
    limits = settings.load
    # One for all endpoints, so that credentials are obtained once.
    auth = _prepared(settings.auth, settings.redactor)
    clients = [
        EndpointClient(
            target.endpoint,
            target.url,
            timeouts=settings.timeouts,
            connections=limits.most_in_flight,
            transport=settings.transport,
            headers=settings.headers,
            auth=auth,
            # A transport of the caller's may keep the responses that it sees, so they are not given in buffers.
            buffers=codec.takes_buffers and settings.transport is None,
            redactor=settings.redactor,
            other_origins=() if codec.polling is None else codec.polling.origins,
            tracing=settings.tracing,
        )
        for target in targets
    ]
    return EndpointGroup(
        clients,
        limits=limits,
        retry=settings.retry,
        timeouts=settings.timeouts,
        rates=_rates(settings),
        meter=TokenMeter(count_tokens),
        hedger=_hedger(settings.hedge),
        decoder=ResponseDecoder(),
        weights=[target.weight for target in targets],
        prices=settings.cost,
    )


def _hedger(hedge: Hedge | None) -> Hedger | None:
    if hedge is None or not hedge.share:
        return None
    from fanout.engine.hedging import Hedger  # few clients hedge

    return Hedger(share=hedge.share, delay=hedge.delay)


def _rates(settings: ClientSettings) -> RateLimiter:
    if isinstance(settings.limits, RateLimiter):
        return settings.limits
    if not shares_limits(settings):
        return RateLimiter(settings.load)
    from fanout.upstream.sharing import SharedRates  # few clients share limits

    return SharedRates(settings.load)


def shares_limits(settings: ClientSettings) -> bool:
    """True if other processes share the limits. Neither a mock nor a recording takes part in them."""
    return settings.load.shared is not None and not is_offline(settings.transport)


def _prepared(auth: Auth | None, redactor: Redactor) -> StaticAuth | Authenticator | None:
    return auth if auth is None or isinstance(auth, StaticAuth) else Authenticator(auth, redactor)
