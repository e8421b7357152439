"""The identity of a run: a journal whose identity is another one belongs to another run."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson

from fanout._redact import Redactor
from fanout._url import LOCAL
from fanout.client.content import content_of
from fanout.errors import ConfigError
from fanout.io.readers import Source, as_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.codecs.base import Codec

_CREDENTIAL = re.compile("(^|[-_.])(api-?key|key|token|secret|password|signature|sig|credential|auth)$", re.IGNORECASE)
"""Parameters of a URL that name the caller: they do not change the answers, and an expired one has to be replaced."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory: part of many a repr, and another in every process."""


def identity_of(rows: object, codec: Codec, urls: Sequence[str], redactor: Redactor | None = None) -> dict[str, Any]:
    """The rows, the codec with its options, and the path and query of the URLs; JSON without any secret.

    Neither the host nor limits nor the size of chunks is part of it: another of these gives the same answers.

    Raises `ConfigError` for rows of an iterator, which cannot be told from others.
    """
    return {"input": _of_rows(rows), "codec": _of_codec(codec), **_of_urls(urls, redactor or Redactor())}


def _of_rows(rows: object) -> Any:
    content = content_of(rows)
    if content is None:
        source = rows if isinstance(rows, Source) else as_source(rows)
        if source is not None:
            return source.fingerprint()
        what = f"rows of a {type(rows).__name__} cannot be told from others"
        raise ConfigError(f"{what}: give the journal an identity of your own", key="journal")
    return content.fingerprint()


def _of_codec(codec: Codec) -> dict[str, Any]:
    kind = type(codec)
    # A name counts for the class that declares it: a subclass may give other answers. The module is left out, so that
    # a codec can move to another one.
    name = kind.name if "name" in vars(kind) else kind.__qualname__
    options = orjson.dumps(codec.options, default=_named, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    # An option may hold a secret, so only the digest of the options is written.
    return {"name": name, "format": kind.format_version, "options": _digest(options)}


def _named(value: Any) -> str:
    """An option that is no JSON, in words that are the same in every process."""
    return str(getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value)))


def _of_urls(urls: Sequence[str], redactor: Redactor) -> dict[str, Any]:
    parts = sorted({(_path(url, redactor), _query(url)) for url in urls})
    paths = list(dict.fromkeys(path for path, _ in parts))
    told: dict[str, Any] = {"path": paths[0] if len(paths) == 1 else paths}
    if any(query for _, query in parts):
        told["query"] = [query and _digest(query.encode()) for _, query in parts]  # it may hold a secret
    return told


def _path(url: str, redactor: Redactor) -> str:
    """The path; where a secret is in it, without that, but with its digest."""
    path, shown = (one if one.startswith(LOCAL) else urlsplit(one).path for one in (url, redactor.hide(url)))
    return path if shown == path else f"{shown} {_digest(path.encode())}"


def _query(url: str) -> str:
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return urlencode(sorted(pair for pair in pairs if not _CREDENTIAL.search(pair[0])))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
