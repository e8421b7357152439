"""Settings that hold addresses and may hold credentials: endpoints, and object stores of inputs and outputs.

They are settings as those in `fanout.settings` are; besides, they refuse to be pickled with a secret in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from fanout._headers import (
    has_literal,
    is_secret_option,
    literal_fields,
    require_header_name,
    require_headers,
    require_no_literals,
)
from fanout._url import UNIX, redact_url, require_url, require_web_url
from fanout.errors import ConfigError
from fanout.options import checks_options
from fanout.settings import require, require_count, require_positive


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One endpoint, or several that serve the same model. The repr omits header values, which may hold credentials."""

    url: str = ""
    """URL of the model: http(s)://..., unix:///PATH for a Unix socket (unix:///PATH:/v1/... with the path of the
    request), or local://NAME for the packaged model server."""

    urls: tuple[str, ...] = ()
    """Further endpoints that serve the same model. All are used as one, and every setting here applies to each."""

    weights: tuple[float, ...] = ()
    """Relative capacity of url and urls, one number each: 2 gets twice the requests of 1. Equal if not given."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Header fields sent with every request."""

    # Each request in flight may have a response of this size in memory.
    max_response_bytes: int = 64 * 2**20
    """Maximum size of a response, also after decompression."""

    # aiohttp allows 8 KiB, which is less than vLLM states of 256 embeddings in a header field.
    max_header_bytes: int = 64 * 2**10
    """Maximum size of the header of a response."""

    # Off unless it is asked for, since a proxy sees rows and credentials on their way to an http:// URL.
    proxy: str | None = None
    """URL of an HTTP proxy; or "env", for those that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name, which are ignored
    otherwise."""

    compress: Literal["gzip"] | None = None
    """Encoding of request bodies, where the server takes it: "gzip" for those of 1 KiB or more. chunks.max_bytes counts
    bytes before compression."""

    ca_file: str | None = None
    """PEM file with the certificates to trust, instead of the system's."""

    client_cert: str | None = None
    """PEM file with the client's certificate, and with its key unless client_key is given."""

    client_key: str | None = None
    """PEM file with the key of client_cert."""

    request_id_header: str | None = None
    """Name of a header that carries an id for each request. A response with another id is invalid."""

    idempotency_header: str | None = None
    """Name of a header that carries one key for all attempts of a chunk, for instance Idempotency-Key."""

    model: str | None = None
    """Model name that every response must carry, if responses name their model; others are invalid. If not given, all
    endpoints must report the same name; one endpoint that alternates between names counts as one model."""

    def __post_init__(self) -> None:
        for field_name in ("urls", "weights"):  # a list is accepted, and frozen with the rest
            object.__setattr__(self, field_name, tuple(getattr(self, field_name)))
        if not self.url and not self.urls:
            raise ConfigError("url is missing: where requests are to go (or urls, for several endpoints)", key="url")
        if self.url:
            require_url(self.url, "url")
        for url in self.urls:
            require_url(url, "urls")
        every = self._every
        require(len(set(every)) == len(every), "urls", [redact_url(url) for url in every], "all different")
        require(len(self.weights) in (0, len(every)), "weights", list(self.weights), f"{len(every)} numbers, one a url")
        for weight in self.weights:
            require_positive("weights", weight)
        require_headers(self.headers)
        for field_name in ("request_id_header", "idempotency_header"):
            if (name := getattr(self, field_name)) is not None:
                require_header_name(name, field_name)
        require_count("max_response_bytes", self.max_response_bytes)
        require_count("max_header_bytes", self.max_header_bytes)
        require(self.model != "", "model", self.model, "the name of the model in responses")
        if self.proxy is not None and self.proxy != "env":
            require_web_url(self.proxy, "proxy")
            sockets = [url for url in every if url.startswith(UNIX)]
            require(not sockets, "proxy", redact_url(self.proxy), f"left out for a Unix socket ({', '.join(sockets)})")
        require(self.compress in (None, "gzip"), "compress", self.compress, 'left out or "gzip"')
        require(self.client_cert is not None or self.client_key is None, "client_key", "alone", "with a client_cert")

    def each(self) -> list[tuple[Endpoint, float]]:
        """Return an `Endpoint` for each URL, with its weight."""
        every = self._every
        # One endpoint for each URL, since each has connections, a circuit breaker and a cooldown of its own.
        weights = self.weights or (1.0,) * len(every)
        return [
            (replace(self, url=url, urls=(), weights=()), weight) for url, weight in zip(every, weights, strict=True)
        ]

    @property
    def shown(self) -> str:
        """The URLs without secrets."""
        return ", ".join(map(redact_url, self._every))

    @property
    def _every(self) -> tuple[str, ...]:
        return (self.url, *self.urls) if self.url else self.urls

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("url", *(f"urls[{place}]" for place in range(len(self.urls))), "proxy")
        # A literal secret stays here; a reference such as ${KEY} travels, and is resolved in the other process.
        urls = zip(names, (self.url, *self.urls, self.proxy or ""), strict=True)
        literals = [name for name, url in urls if has_literal(url)]
        require_no_literals([*literals, *(f"headers.{name}" for name in literal_fields(self.headers))])
        options = {one.name: getattr(self, one.name) for one in fields(self)}
        return partial(Endpoint, **options | {"headers": dict(self.headers)}), ()

    # Else a copy within the process would be refused as well.
    def __copy__(self) -> Endpoint:
        return self

    def __deepcopy__(self, _: object) -> Endpoint:
        return self


Endpoints: TypeAlias = str | Endpoint | Sequence[str | Endpoint]
"""A URL or an `Endpoint`; or several that serve the same model, used as one."""


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Access to inputs and outputs behind URLs, where the environment alone does not give it.

    Options are those of obstore. Neither the repr nor a pickle has any of them, since they may be credentials.
    """

    s3: Mapping[str, str | int | bool] = field(default_factory=dict, repr=False)
    """Options for s3:// URLs, such as region, endpoint, access_key_id, secret_access_key, session_token,
    skip_signature."""

    gs: Mapping[str, str | int | bool] = field(default_factory=dict, repr=False)
    """Options for gs:// URLs, such as service_account_path, skip_signature."""

    az: Mapping[str, str | int | bool] = field(default_factory=dict, repr=False)
    """Options for az:// URLs, such as account_name, account_key, sas_token, endpoint."""

    https: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Header fields for https:// inputs, such as authorization. A redirect to another host gets none of them."""

    def __post_init__(self) -> None:
        require_headers(self.https, "https")
        for scheme in ("s3", "gs", "az"):
            for name, value in getattr(self, scheme).items():
                if not isinstance(value, str | int | bool):
                    raise ConfigError(f"{name} must be a text, a whole number or true or false", key=f"{scheme}.{name}")

    @property
    def secrets(self) -> list[str]:
        """The options that are credentials by their names; header fields are not among them."""
        options = [pair for scheme in (self.s3, self.gs, self.az) for pair in scheme.items()]
        return [str(value) for name, value in options if is_secret_option(name)]

    def __reduce__(self) -> tuple[Any, ...]:
        # The other process takes credentials from its own environment.
        return Storage, ()
