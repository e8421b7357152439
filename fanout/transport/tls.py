"""The TLS settings of an endpoint as a context."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.settings import Endpoint


def tls_of(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """A context for the endpoint's own certificates; True (the system's defaults) where it has none.

    Raises `ConfigError` naming the file that cannot be used.
    """
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
