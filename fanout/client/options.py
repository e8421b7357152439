"""Options of a client: their types for type checkers, and their checked form for a session.

`Client.__init__` is the source of the names, defaults and descriptions. `ClientOptions` repeats names and types,
because ``Unpack`` accepts a TypedDict only; a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from urllib.parse import urlsplit

from fanout import presets
from fanout._escape import escaped
from fanout._redact import Redactor, secrets_of
from fanout.auth import Auth
from fanout.codecs.base import Codec
from fanout.errors import ConfigError
from fanout.limits import RateLimiter
from fanout.prices import Prices
from fanout.settings import Cache, Chunks, Hedge, Limits, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from os import PathLike

    from typing_extensions import TypeVar as TypeVarWithDefault

    from fanout.addresses import Endpoint
    from fanout.presets import Preset
    from fanout.results import Event
    from fanout.telemetry.clients import Telemetry
    from fanout.telemetry.spans import SpanTracing
    from fanout.transport import HeaderSource, Transport, TransportWrapper
    from fanout.types import Answers

    V = TypeVarWithDefault("V", default=Answers)
else:
    V = TypeVar("V")
    """Return type of `map`."""


_LONGEST_NAME = 64


class ClientOptions(TypedDict, total=False):
    """Keyword arguments of `Client`, `SyncClient` and `fanout.map`; see `Client` for their descriptions."""

    chunk_rows: int | None
    chunk_max_bytes: int | None
    chunk_max_tokens: int | None
    count_tokens: Callable[[Any], float] | None
    max_pending: int
    limits: Limits | RateLimiter | None
    retry: RetryPolicy | None
    timeouts: Timeouts | None
    hedge: Hedge | None
    cache: Cache | str | PathLike[str] | None
    dedupe: bool
    cost: Prices | None
    headers: HeaderSource | None
    auth: Auth | None
    on_event: Callable[[Event], None] | None
    telemetry: Telemetry | Sequence[Telemetry] | None
    name: str | None
    transport: Transport | TransportWrapper | None
    secrets: Iterable[str] | Redactor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ClientSettings:
    """The options of a client in the form that its session uses: checked, with defaults in place of None.

    Raises:
        ConfigError: an option has the wrong type, or two options contradict each other.
    """

    chunks: Chunks
    limits: Limits | RateLimiter | None
    retry: RetryPolicy | None
    timeouts: Timeouts | None
    hedge: Hedge | None
    cache: Cache | None
    dedupe: bool
    cost: Prices | None
    count_tokens: Callable[[Any], float] | None
    max_pending: int
    headers: HeaderSource | None
    auth: Auth | None
    on_event: Callable[[Event], None] | None
    telemetry: tuple[Telemetry, ...]
    name: str
    """Name of the client in telemetry."""

    tracing: SpanTracing | None
    """The tracing of the telemetry; None if it has none."""

    transport: Transport | TransportWrapper | None
    redactor: Redactor

    def __post_init__(self) -> None:
        if isinstance(self.max_pending, bool) or not isinstance(self.max_pending, int) or self.max_pending < 1:
            raise ConfigError(
                f"max_pending must be a whole number, at least 1, not {self.max_pending!r}", key="max_pending"
            )
        kinds: dict[str, Any] = {
            "limits": Limits, "retry": RetryPolicy, "timeouts": Timeouts, "hedge": Hedge, "cost": Prices
        }  # fmt: skip
        for name, kind in kinds.items():
            value, default = getattr(self, name), None if name in ("hedge", "cost") else kind
            # The dataclass is frozen for everyone else; defaults are filled in once.
            if value is None:
                object.__setattr__(self, name, default and default())
            # A dict in place of settings would fail much later, inside the first request.
            elif not isinstance(value, (kind, RateLimiter) if name == "limits" else kind):
                raise ConfigError(f"{name} must be a fanout.{kind.__name__}(...), not {type(value).__name__}", key=name)
        if not isinstance(self.dedupe, bool):
            raise ConfigError(f"dedupe must be True or False, not {self.dedupe!r}", key="dedupe")
        auth: Any = self.auth
        if auth is not None and not isinstance(auth, Auth):
            problem = f"auth must be a fanout.Auth, such as fanout.BearerAuth(...), not {type(auth).__name__}"
            raise ConfigError(problem, key="auth")
        self._require_plain_functions()
        self._require_one_token_count()
        self._require_one_way_of_sharing()
        # Without a price nothing costs anything, and the limit would never be reached.
        if self.load.max_cost is not None and not (self.cost is not None and self.cost.is_set):
            problem = "max_cost needs prices: cost.input_per_million and output_per_million, per_request or per_row"
            raise ConfigError(problem, key="limits.max_cost")

    @property
    def load(self) -> Limits:
        """The limits, whether they were given as such or inside a `RateLimiter`."""
        assert self.limits is not None
        return self.limits.limits if isinstance(self.limits, RateLimiter) else self.limits

    def _require_one_way_of_sharing(self) -> None:
        if isinstance(self.limits, RateLimiter) and self.load.shared is not None:
            problem = "a RateLimiter shares rates within one process, limits.shared between several: leave one out"
            raise ConfigError(problem, key="limits.shared")

    def _require_plain_functions(self) -> None:
        for name in ("on_event", "count_tokens"):
            # A call of an async function only makes a coroutine: no event would be seen, and no token counted.
            if iscoroutinefunction(getattr(self, name)):
                raise ConfigError(f"{name} must be a plain function, not an async one: it is not awaited", key=name)
        if self.on_event is not None and not callable(self.on_event):
            raise ConfigError(f"on_event must be a function, not {self.on_event!r}", key="on_event")

    def _require_one_token_count(self) -> None:
        if self.count_tokens is None:
            return
        if not callable(self.count_tokens):
            raise ConfigError(
                f"count_tokens must be a function, not {self.count_tokens!r}; "
                "limits.tokenizer takes the name of a tiktoken encoding",
                key="count_tokens",
            )
        # Two sources of one number could disagree, and a silent choice would cost money.
        if self.load.tokenizer is not None:
            raise ConfigError("count_tokens and limits.tokenizer both count tokens: leave one out", key="count_tokens")


def telemetry_of(given: Telemetry | Sequence[Telemetry] | None) -> tuple[tuple[Telemetry, ...], SpanTracing | None]:
    """Return the telemetry of a client as a tuple, and its tracing. Raises `ConfigError`."""
    if given is None:
        return (), None
    from fanout.telemetry.clients import Telemetry

    telemetry = (given,) if isinstance(given, Telemetry) else tuple(given) if isinstance(given, list | tuple) else given
    if not isinstance(telemetry, tuple) or not all(isinstance(one, Telemetry) for one in telemetry):
        problem = f"telemetry must be a fanout.OpenTelemetry() or fanout.Prometheus(), or a list of them, not {given!r}"
        raise ConfigError(problem, key="telemetry")
    tracings = [one.tracing for one in telemetry if one.tracing is not None]
    if len(tracings) > 1 or len(set(telemetry)) < len(telemetry):
        raise ConfigError("telemetry names one thing twice: each request would be counted twice", key="telemetry")
    return telemetry, tracings[0] if tracings else None


def name_of(given: str | None, url: str) -> str:
    """Return the name of a client: the host of its first URL if none is given. Raises `ConfigError`."""
    if given is None:
        # The host alone, since other parts of a URL may hold secrets.
        return escaped(urlsplit(url).hostname or url)[:_LONGEST_NAME]
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_NAME or not given.isprintable():
        problem = f"name must be a text of at most {_LONGEST_NAME} printable characters, not {given!r}"
        raise ConfigError(problem, key="name")
    return given


def chunks_of(preset: Preset | None, rows: int | None, max_bytes: int | None, max_tokens: int | None) -> Chunks:
    """Make `Chunks` of the options ``chunk_rows``, ``chunk_max_bytes`` and ``chunk_max_tokens``, and of a preset's.

    Raises `ConfigError` with the name of the option.
    """
    given = {"rows": rows, "max_bytes": max_bytes, "max_tokens": max_tokens}
    # The settings call these fields rows, max_bytes and max_tokens; the error must name the option that the caller
    # wrote.
    try:
        chunks = preset.chunks if preset is not None else Chunks()
        return replace(chunks, **{name: value for name, value in given.items() if value is not None})
    except ConfigError as error:
        raise ConfigError(f"chunk_{error}", key=f"chunk_{error.key}") from None


def redactor_of(
    secrets: Iterable[str] | Redactor,
    endpoints: Iterable[Endpoint],
    auth: Auth | None,
    limits: Limits | RateLimiter | None,
) -> Redactor:
    """Return a redactor that knows ``secrets`` and all credentials in the options."""
    # A single text is an iterable of characters, which would all be too short to be secrets.
    texts = [secrets] if isinstance(secrets, str) else secrets
    redactor = texts if isinstance(texts, Redactor) else Redactor(texts)
    for endpoint in endpoints:
        redactor.add(secrets_of(endpoint.url, endpoint.headers))
    # An option of a wrong type is refused later, by an error that the redactor has to see.
    if isinstance(auth, Auth):
        redactor.add(auth.secrets)
    if isinstance(limits, Limits) and limits.shared is not None:
        redactor.add(secrets_of(limits.shared, {}))
    return redactor


def preset_of(codec: object) -> Preset | None:
    """Return the preset in the place of a codec; None for a codec, its class or its name."""
    if isinstance(codec, str | Codec | type):
        return None
    # Asked of the package, which imports its modules then: most clients have no preset.
    return codec if isinstance(codec, presets.Preset) else None


def codec_of(codec: str | Codec | type[Codec] | Preset) -> Codec:
    """Return the codec that a name, a class, an instance or a preset stands for. Raises `ConfigError`."""
    if (preset := preset_of(codec)) is not None:
        codec = preset.codec
    if isinstance(codec, str):
        from fanout.codecs import codec as codec_by_name

        return codec_by_name(codec)
    if isinstance(codec, type) and issubclass(codec, Codec):
        return codec()
    if isinstance(codec, Codec):
        return codec
    raise ConfigError(f"codec must be a name or a fanout.Codec, not {type(codec).__name__}", key="codec")


def require_repeatable(codec: Codec, cache: Cache | None) -> None:
    """Raise `ConfigError` if the answers are drawn at random, so that a cache would repeat one draw unasked."""
    if cache is not None and cache.path is not None and not cache.sampled and (reason := codec.sampled):
        raise ConfigError(
            f"cache would repeat answers that the model draws at random ({reason}): set temperature = 0, or "
            "cache.sampled = true to give later runs the same draw (in Python Cache(sampled=True))",
            key="cache",
        )
