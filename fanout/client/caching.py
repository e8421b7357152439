"""The context of a client's cache: everything that changes answers beside the request of a row."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from fanout._url import LOCAL, UNIX, USUAL_PORTS, is_credential, split_socket
from fanout.client.endpoints import offline_url
from fanout.client.identity import codec_identity, codec_name, query_of
from fanout.engine import AnswerStore, Shares, SharingChunker
from fanout.errors import ConfigError
from fanout.io.cache import AnswerCache, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.addresses import Endpoint
    from fanout.client.options import ClientSettings
    from fanout.codecs.base import Codec
    from fanout.engine import Chunker, Packing
    from fanout.limits import ConcurrencyLimiter
    from fanout.rows import RowSet
    from fanout.upstream.call import Call

# Fields that name the caller or one request. All others count, since a gateway may choose the model by any of them.
_NOT_OF_ANSWERS = frozenset(
    {
        "authorization", "proxy-authorization", "cookie", "user-agent", "traceparent", "tracestate", "baggage",
        "x-request-id", "x-correlation-id", "accept-encoding",
    }
)  # fmt: skip


async def open_store(
    endpoints: Sequence[tuple[Endpoint, float]], codec: Codec, settings: ClientSettings
) -> AnswerStore | None:
    """Open the client's cache; None without one. Raises `ConfigError` if the file cannot be used."""
    cache = settings.cache
    if cache is None or cache.path is None:
        return None
    context, shown = context_of(endpoints, codec, settings)
    origin = Origin(cache.namespace, shown, codec_name(codec))
    try:
        opened = await asyncio.to_thread(AnswerCache, Path(cache.path), ttl=cache.ttl)
    except ConfigError as error:
        raise ConfigError(str(error), key="cache") from None
    return AnswerStore(opened, origin, context, lasting=True)


def sharing_chunker(
    every: Chunker,
    store: AnswerStore | None,
    call: Call,
    *,
    dedupe: bool,
    window: ConcurrencyLimiter | None,
    skip: RowSet | None,
    packing: Packing | None,
) -> SharingChunker:
    """Return a chunker of the rows of ``every`` that the store does not know, or that no other row is equal to.

    Without a ``store``, the run has one of its own for the answers to its duplicates.
    """
    own = store or AnswerStore(AnswerCache(), Origin(), b"", lasting=False)
    shares = Shares(own, dedupe=dedupe, window=window, call=context_of_call(call))
    return SharingChunker(every, shares, window=window, skip=skip, packing=packing)


def context_of(
    endpoints: Sequence[tuple[Endpoint, float]], codec: Codec, settings: ClientSettings
) -> tuple[bytes, str]:
    """Return the digest of the context, and the endpoint for people, without secrets."""
    assert settings.cache is not None
    # Sorted, so that the order of endpoints in a job does not matter.
    places = sorted({_place(endpoint.url, codec) for endpoint, _ in endpoints})
    own = settings.headers if isinstance(settings.headers, Mapping) else {}
    headers = sorted({field for endpoint, _ in endpoints for field in _fields({**endpoint.headers, **own})})
    context = [settings.cache.namespace, places, codec_identity(codec), headers]
    digest = blake2b(orjson.dumps(context), digest_size=32).digest()
    redact = settings.redactor.url
    return digest, ", ".join(dict.fromkeys(redact(f"{origin}{path}") for origin, path, _ in places))


def context_of_call(call: Call) -> bytes:
    """Return the digest of the header fields of one call that may change answers; empty without any."""
    fields = [] if call.headers is None else sorted(_fields(call.headers.fields))
    return blake2b(orjson.dumps(fields), digest_size=32).digest() if fields else b""


def _place(url: str, codec: Codec) -> tuple[str, str, str]:
    """Return origin, path and query of the requests to an endpoint."""
    if url.startswith(LOCAL):
        # The port of a local server is another one in each process.
        return url, "", ""
    socket, http = split_socket(offline_url(url, codec.path))
    parts = urlsplit(http)
    port = parts.port or USUAL_PORTS.get(parts.scheme, 0)
    origin = f"{parts.scheme}://{parts.hostname}:{port}" if socket is None else f"{UNIX}{socket}:"
    return origin, parts.path, query_of(url)


def _fields(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the fields that may change answers, without credentials, which are renewed."""
    fields = [(name.lower(), value) for name, value in headers.items()]
    return [(name, value) for name, value in fields if name not in _NOT_OF_ANSWERS and not is_credential(name)]
