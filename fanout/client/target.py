"""Which URL requests go to: the endpoint's, with the codec's path where it has none of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from fanout._url import LOCAL, redact_url
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.settings import Endpoint

_NOWHERE = "http://local.invalid"
"""Where a local server would be: a name that can never be resolved (RFC 6761)."""


def target(url: str, path: str, model: str | None = None) -> str:
    """``url``, or ``url`` + ``path`` if it is a bare origin. ``{model}`` in the path is replaced by ``model``.

    Raises `ConfigError` when the path needs a model's name and there is none.
    """
    parts = urlsplit(url)
    if parts.path not in ("", "/") or not path:
        return url
    if "{model}" in path:
        if model is None:
            example = redact_url(parts._replace(path=path.replace("{model}", "NAME")).geturl())
            raise ConfigError(f"the url {redact_url(url)} names no model; write it whole, like {example}", key="url")
        path = path.replace("{model}", quote(model, safe=":."))
    return parts._replace(path=path).geturl()


def replaced_target(url: str, path: str) -> str:
    """The same for an endpoint in whose place a transport answers, so that no local server has an origin."""
    if not url.startswith(LOCAL):
        return target(url, path)
    return target(_NOWHERE, path, url.removeprefix(LOCAL))


def without_files(endpoint: Endpoint) -> Endpoint:
    """``endpoint`` without certificates and proxy: nothing is connected to, so they need not be there."""
    return replace(endpoint, ca_file=None, client_cert=None, client_key=None, proxy=None)
