"""The proxy of an endpoint: none, one of the settings, or the one that the environment names for its host."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from fanout._url import require_web_url
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from yarl import URL


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
