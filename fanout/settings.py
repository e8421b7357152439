"""What a user can set: frozen, keyword-only, checked when made. Fields are the job file's keys; times in seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, ClassVar, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from fanout.errors import ConfigError
from fanout.options import naming_fields

LOCAL = "local://"
"""Scheme of the packaged model server."""

_RATES = tuple(f"{unit}_per_{period}" for unit in ("requests", "rows", "tokens") for period in ("second", "minute"))

_LARGEST_AUTO = 256
"""Past it a client of one process is its own bottleneck."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header field's name (RFC 9110, 5.6.2)."""

# A lone surrogate has no UTF-8.
_NOT_IN_A_VALUE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

# Two readers of one message must not see two different ends of it. Host does not frame: it chooses a virtual host.
_FRAMING = frozenset(
    {
        "connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip

# Read by pydantic when the job file embeds these classes, without pydantic being imported here.
_JOB_FILE = {"extra": "forbid", "use_attribute_docstrings": True}


@naming_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How hard the endpoint may be driven."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _JOB_FILE

    concurrency: int | Literal["auto"] = 16
    """Most requests in flight at once; "auto": as many as the endpoint turns out to be worth, up to 256."""

    requests_per_second: float | None = None
    """Most requests started in a second; none: no limit."""

    requests_per_minute: float | None = None
    """Most requests started in a minute. Of several limits all hold."""

    rows_per_second: float | None = None
    """Most rows sent in a second; those of another attempt count again."""

    rows_per_minute: float | None = None
    """Most rows sent in a minute."""

    tokens_per_second: float | None = None
    """Most tokens of a language model in a second: counted, or estimated from what answers tell (usage)."""

    tokens_per_minute: float | None = None
    """Most tokens of a language model in a minute."""

    burst: float = 0.0
    """Part of its own second or minute that each of these limits lets go at once after a quiet time: 0 spaces requests
    evenly, 1 saves a whole second or minute up."""

    tokenizer: str | None = None
    """Name of the tiktoken encoding that counts tokens, such as cl100k_base; needs the extra tiktoken."""

    max_requests: int | None = None
    """A guard on the bill: the run stops, with all that succeeded, before request number max_requests + 1."""

    def __post_init__(self) -> None:
        if isinstance(self.concurrency, str):
            _require(self.concurrency == "auto", "concurrency", self.concurrency, 'a whole number or "auto"')
        else:
            _require_count("concurrency", self.concurrency)
        for name in _RATES:
            _require_positive(name, getattr(self, name))
        _require(isfinite(self.burst) and self.burst >= 0, "burst", self.burst, "a finite number, 0 or more")
        rated = any(getattr(self, name) is not None for name in _RATES)
        _require(
            rated or not self.burst, "burst", self.burst, "left out where there is no rate, such as rows_per_second"
        )
        _require(self.tokenizer != "", "tokenizer", self.tokenizer, "the name of an encoding, such as cl100k_base")
        if self.max_requests is not None:
            _require_count("max_requests", self.max_requests)

    @property
    def rates(self) -> dict[str, float]:
        """The limits on what goes in a second or a minute that are set, by their names."""
        return {name: rate for name in _RATES if (rate := getattr(self, name)) is not None}

    @property
    def most_in_flight(self) -> int:
        """What concurrency is, or may become."""
        return _LARGEST_AUTO if isinstance(self.concurrency, str) else self.concurrency


@naming_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """When and how often a failed attempt is made again."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _JOB_FILE

    max_attempts: int = 5
    """Attempts a chunk gets before it counts as failed (1: no retry)."""

    initial_backoff: float = 0.2
    """Upper bound of the first random wait; it doubles with each attempt (full jitter)."""

    max_backoff: float = 30.0
    """Largest upper bound of a random wait."""

    budget: float = 0.2
    """Retries that a first-try success pays for; when they are spent the endpoint is braked until a probe succeeds."""

    max_pushback: float = 120.0
    """Longest wait that a server may ask for (Retry-After); a longer one stops the run."""

    stall: float = 300.0
    """A run in which nothing has succeeded for this long stops."""

    def __post_init__(self) -> None:
        _require_count("max_attempts", self.max_attempts)
        _require_positive("stall", self.stall)
        for name in ("initial_backoff", "max_backoff", "budget", "max_pushback"):
            value = getattr(self, name)
            _require(isfinite(value) and value >= 0, name, value, "a finite number, 0 or more")


@naming_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Hedge:
    """A second request for rows whose first takes long: the first valid answer counts, the other is cancelled.

    For inference that may be done twice without harm: rows may be computed, and billed, twice.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _JOB_FILE

    share: float = 0.0
    """Most second requests, as a part of all; 0: none, 0.05: one for every twenty."""

    delay: float | None = None
    """Seconds after which one is sent; the 95th percentile of the last latencies if left out."""

    def __post_init__(self) -> None:
        _require(isfinite(self.share) and 0 <= self.share <= 1, "share", self.share, "between 0 and 1")
        _require_positive("delay", self.delay)


@naming_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Deadlines in seconds. Waiting for a permit, a rate token or a server's pushback is charged to no attempt."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _JOB_FILE

    connect: float = 10.0
    """To make a connection, name look-up and TLS included."""

    attempt: float = 60.0
    """For one HTTP exchange, from the first byte sent to the last byte read."""

    run: float | None = None
    """For a whole run; when it has passed the run stops with all that succeeded. None: no limit."""

    def __post_init__(self) -> None:
        for name in ("connect", "attempt", "run"):
            _require_positive(name, getattr(self, name))


@naming_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where requests go. Header values are left out of the repr, since they carry credentials."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _JOB_FILE

    url: str = ""
    """http(s)://... of the model, or local://NAME for the packaged model server."""

    urls: tuple[str, ...] = ()
    """More endpoints that serve the same model: all together are used as one. What is said here counts for each."""

    weights: tuple[float, ...] = ()
    """Shares of url and urls, one number each, where they are not alike: 2 gets twice the requests of 1."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request."""

    max_response_bytes: int = 64 * 2**20
    """An answer may not be larger than this, after decompression too."""

    max_header_bytes: int = 64 * 2**10
    """The header of an answer may not be larger than this."""

    proxy: str | None = None
    """URL of an HTTP proxy; the environment's are not used."""

    ca_file: str | None = None
    """File with the certificates (PEM) to trust, in place of the system's."""

    client_cert: str | None = None
    """File with a certificate (PEM) to show to the server, and with its key if client_key is not given."""

    client_key: str | None = None
    """File with the key of client_cert."""

    request_id_header: str | None = None
    """Name of a header that carries an id of each request; an answer with another id in it is not believed."""

    idempotency_header: str | None = None
    """Name of a header that carries one key for all attempts of a chunk, such as Idempotency-Key."""

    model: str | None = None
    """Name of the model that every answer must carry, where answers name their model; others are refused. Without it
    several endpoints have to serve the same model, and a router whose answers alternate between names counts as one."""

    def __post_init__(self) -> None:
        for field_name in ("urls", "weights"):  # a list will do
            object.__setattr__(self, field_name, tuple(getattr(self, field_name)))
        if not self.url and not self.urls:
            raise ConfigError("url is missing: where requests are to go (or urls, for several endpoints)", key="url")
        if self.url:
            _require_url(self.url, "url")
        for url in self.urls:
            _require_url(url, "urls")
        every = self._every
        _require(len(set(every)) == len(every), "urls", [masked(url) for url in every], "all different")
        _require(
            len(self.weights) in (0, len(every)), "weights", list(self.weights), f"{len(every)} numbers, one a url"
        )
        for weight in self.weights:
            _require_positive("weights", weight)
        require_headers(self.headers)
        for field_name in ("request_id_header", "idempotency_header"):
            if (name := getattr(self, field_name)) is not None:
                require_header_name(name, field_name)
        _require_count("max_response_bytes", self.max_response_bytes)
        _require_count("max_header_bytes", self.max_header_bytes)
        _require(self.model != "", "model", self.model, "the name that answers give their model")
        if self.proxy is not None:
            _require_web(self.proxy, "proxy")
        _require(self.client_cert is not None or self.client_key is None, "client_key", "alone", "with a client_cert")

    def each(self) -> list[tuple[Endpoint, float]]:
        """The endpoints one by one, with their weights."""
        every = self._every
        weights = self.weights or (1.0,) * len(every)
        return [
            (replace(self, url=url, urls=(), weights=()), weight) for url, weight in zip(every, weights, strict=True)
        ]

    @property
    def shown(self) -> str:
        """The URLs, fit to be shown."""
        return ", ".join(map(masked, self._every))

    @property
    def _every(self) -> tuple[str, ...]:
        return (self.url, *self.urls) if self.url else self.urls

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"


Endpoints: TypeAlias = str | Endpoint | Sequence[str | Endpoint]
"""One endpoint, or several that serve the same model and are used as one."""


def masked(url: str) -> str:
    """``url`` fit to be shown: userinfo and query values are replaced by ``***``."""
    try:
        parts = urlsplit(url)
    except ValueError:  # not a URL at all: nothing in it can be told apart, so nothing is shown
        return "***"
    if "@" in url and not _has_authority(parts):
        # The scheme is missing, or a / ? # in a password cuts the URL in the wrong place.
        return f"***@{masked(url.rpartition('@')[2])}"
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    query = "&".join(
        f"{pair.partition('=')[0]}=***" if "=" in pair else "***" for pair in parts.query.split("&") if pair
    )
    return parts._replace(netloc=netloc, query=query, fragment="").geturl()


def require_headers(headers: Mapping[str, str], key: str = "headers") -> None:
    """Raise `ConfigError` for a header field that cannot be sent, or that frames a message; its value is not shown."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"header {name!r} must be a text, not {type(value).__name__}", key=key)
        require_header_name(name, key)
        if _NOT_IN_A_VALUE.search(value):
            raise ConfigError(f"header {name!r} holds a line break or another control character", key=key)


def require_header_name(name: str, key: str) -> None:
    """Raise `ConfigError` for the name of a header field that may not be set."""
    if not _TOKEN.fullmatch(name):
        if _NOT_IN_A_VALUE.search(name):
            raise ConfigError(f"header {name!r} holds a line break or another control character", key=key)
        raise ConfigError(f"header {name!r} is no valid name: use letters, digits and !#$%&'*+-.^_`|~ only", key=key)
    if name.lower() in _FRAMING:
        raise ConfigError(f"header {name!r} frames the message, so fanout alone sets it; leave it out", key=key)


def _require_count(name: str, value: object) -> None:
    _require(isinstance(value, int), name, value, "a whole number")
    _require(isinstance(value, int) and value >= 1, name, value, "at least 1")


def _require_positive(name: str, value: float | None) -> None:
    _require(value is None or (isfinite(value) and value > 0), name, value, "a finite number above 0")


def _has_authority(parts: SplitResult) -> bool:
    try:
        return bool(parts.netloc) and (parts.port is None or parts.port >= 0)
    except ValueError:  # its port is no number
        return False


def _require_url(url: str, key: str) -> None:
    if url == LOCAL:
        raise ConfigError(f"{key} {url!r} names no model; try local://digits", key=key)
    if not url.startswith(LOCAL):  # what follows may be package.module:function, which is no host
        _require_web(url, key)


def _require_web(url: str, key: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # its text may quote a part of the password
        raise ConfigError(
            f"{key} {masked(url)!r} is not a URL: its host or port cannot be read "
            "(in a password, write @ / ? # as %40 %2F %3F %23)",
            key=key,
        ) from None
    if parts.scheme not in ("http", "https"):
        # "host:8000/x" parses with "host" as its scheme, so the remedy covers both cases.
        raise ConfigError(
            f"{key} {masked(url)!r} has no http:// or https:// in front; write the whole URL, "
            f"for instance http://{masked(url).rpartition('//')[2]}, or local://digits for the packaged server",
            key=key,
        )
    if not host:
        raise ConfigError(f"{key} {masked(url)!r} names no host", key=key)


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {wanted}, not {value!r}", key=name)
