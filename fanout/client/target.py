"""Which URL requests go to: the endpoint's, with the codec's path where it has none of its own."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from fanout.errors import ConfigError
from fanout.settings import masked


def target(url: str, path: str, model: str | None = None) -> str:
    """``url``, or ``url`` + ``path`` if it is a bare origin. ``{model}`` in the path is replaced by ``model``.

    Raises `ConfigError` when the path needs a model's name and there is none.
    """
    parts = urlsplit(url)
    if parts.path not in ("", "/") or not path:
        return url
    if "{model}" in path:
        if model is None:
            example = masked(parts._replace(path=path.replace("{model}", "NAME")).geturl())
            raise ConfigError(f"the url {masked(url)} names no model; write it whole, like {example}", key="url")
        path = path.replace("{model}", quote(model, safe=":."))
    return parts._replace(path=path).geturl()
