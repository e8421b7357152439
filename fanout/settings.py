"""Settings: frozen, keyword-only dataclasses that check their values when they are created. All times are in seconds.

They are the one source of names, defaults and descriptions: `Client` takes them as arguments, and the tables of a job
file, ``fanout schema`` and the docs' table of options are made from their fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from math import isfinite
from numbers import Integral
from os import fspath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from fanout._headers import has_literal, require_no_literals
from fanout.errors import ConfigError
from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

    Wait: TypeAlias = Callable[[RetryCallState], float]
    StopAttempts: TypeAlias = Callable[[RetryCallState], bool]
else:  # so that neither this module nor the job file's model imports tenacity
    Wait = StopAttempts = Any

PYTHON_ONLY = ("wait", "stop")
"""Fields of `RetryPolicy` that are no keys of the job file, since no text can hold their value."""

_RATES = tuple(f"{unit}_per_{period}" for unit in ("requests", "rows", "tokens") for period in ("second", "minute"))

# Beyond it, a client in one process is the bottleneck itself.
_LARGEST_AUTO = 256


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """Division of the input into requests. The first bound that is reached closes a chunk."""

    rows: int = 64
    """Maximum rows in one request."""

    max_bytes: int | None = None
    """Maximum bytes in the body of one request. A single row that is larger is sent alone."""

    max_tokens: int | None = None
    """Maximum tokens in one request: counted by limits.tokenizer, else estimated."""

    def __post_init__(self) -> None:
        require_count("rows", self.rows)
        for name in ("max_bytes", "max_tokens"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on the load that a client puts on its endpoint. If several limits are set, all of them hold."""

    concurrency: int | Literal["auto"] = 16
    """Maximum requests in flight; "auto" adapts the limit to the endpoint's throughput and latency, up to 256."""

    requests_per_second: float | None = None
    """Maximum requests started per second; unlimited if not given."""

    requests_per_minute: float | None = None
    """Maximum requests started per minute."""

    rows_per_second: float | None = None
    """Maximum rows sent per second; every attempt counts."""

    rows_per_minute: float | None = None
    """Maximum rows sent per minute; every attempt counts."""

    tokens_per_second: float | None = None
    """Maximum tokens of a language model per second: counted by tokenizer, else estimated from the responses' usage."""

    tokens_per_minute: float | None = None
    """Maximum tokens of a language model per minute."""

    burst: float = 0.0
    """Fraction of its second or minute that each rate accumulates while idle, and may send at once: 0 spaces requests
    evenly, 1 accumulates a whole second or minute."""

    tokenizer: str | None = None
    """Name of the tiktoken encoding that counts tokens, such as cl100k_base; requires the extra tiktoken."""

    max_requests: int | None = None
    """Maximum requests in one run, as a guard on the bill. The run then stops, and keeps all rows that succeeded."""

    max_cost: float | None = None
    """Maximum cost of one run at the prices of cost, in its currency, with what is in flight. The run then stops, keeps
    all rows that succeeded, and goes on where it was once this is raised."""

    max_tokens_total: int | None = None
    """Maximum tokens of a language model in one run, input and output together. The run then stops as for max_cost."""

    shared: str | None = field(default=None, repr=False)
    """URL of a Redis or Valkey (redis://..., rediss://... with TLS): rates, concurrency, max_requests, max_cost,
    max_tokens_total and cooldowns then hold for all processes with the same shared_key together. Requires the extra
    redis. Only "auto" concurrency remains each process's own."""

    shared_key: str | None = None
    """Name under which processes share limits; if not given, those that send to the same URLs do. Required with
    max_requests, max_cost and max_tokens_total, which count all requests under this name: one for each run."""

    def __post_init__(self) -> None:
        # The type is not enforced for callers in Python, so another text must not pass.
        if isinstance(self.concurrency, str):
            require(self.concurrency == "auto", "concurrency", self.concurrency, 'a whole number or "auto"')
        else:
            require_count("concurrency", self.concurrency)
        for name in _RATES:
            require_positive(name, getattr(self, name))
        require(isfinite(self.burst) and self.burst >= 0, "burst", self.burst, "a finite number, 0 or more")
        # An ignored setting would mislead: the user expects bursts.
        rated = any(getattr(self, name) is not None for name in _RATES)
        require(
            rated or not self.burst, "burst", self.burst, "left out where there is no rate, such as rows_per_second"
        )
        require(self.tokenizer != "", "tokenizer", self.tokenizer, "the name of an encoding, such as cl100k_base")
        require_positive("max_cost", self.max_cost)
        self._require_shared()
        for name in ("max_requests", "max_tokens_total"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))

    def _require_shared(self) -> None:
        if self.shared is None:
            require(self.shared_key is None, "shared_key", self.shared_key, "left out without shared")
            return
        # The URL may hold a password, so that no message shows it.
        if "://" not in self.shared:
            raise ConfigError("shared must be a URL, such as redis://localhost:6379", key="shared")
        require(self.shared_key != "", "shared_key", self.shared_key, "the name of this run")
        counted = [name for name in ("max_requests", "max_cost", "max_tokens_total") if getattr(self, name) is not None]
        if counted and self.shared_key is None:
            raise ConfigError(
                f"shared_key is missing: {counted[0]} counts the requests of all processes with one shared_key, so "
                "name the run in it, for instance embed-${SLURM_ARRAY_JOB_ID}",
                key="shared_key",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Only this URL can hold a password; as ${NAME} it travels, and is resolved in the other process.
        require_no_literals(["shared"] if has_literal(self.shared or "") else [])
        return partial(Limits, **{one.name: getattr(self, one.name) for one in fields(self)}), ()

    def __copy__(self) -> Limits:
        return self

    def __deepcopy__(self, _: object) -> Limits:
        return self

    @property
    def rates(self) -> dict[str, float]:
        """The rates that are set, by name."""
        return {name: rate for name in _RATES if (rate := getattr(self, name)) is not None}

    @property
    def most_in_flight(self) -> int:
        """The largest value that the concurrency can have."""
        return _LARGEST_AUTO if isinstance(self.concurrency, str) else self.concurrency


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Retries of failed attempts: their number, their backoff, and the conditions that end them."""

    max_attempts: int = 5
    """Maximum attempts for a chunk before its rows fail; 1 disables retries."""

    initial_backoff: float = 0.2
    """Upper bound of the first backoff. The wait is random between 0 and the bound (full jitter), and the bound doubles
    with each attempt."""

    max_backoff: float = 30.0
    """Maximum upper bound of a backoff."""

    # The share that the retry budgets of Finagle and Linkerd have by default.
    budget: float = 0.2
    """Retries that a success at the first attempt adds to the retry budget. Once the budget is spent, the circuit opens
    until a trial request succeeds."""

    max_pushback: float = 120.0
    """Longest pause that a server may demand (Retry-After); a longer one stops the run."""

    stall: float = 300.0
    """Longest time without any success; then the run stops."""

    wait: Wait | None = None
    """In Python only: a ``tenacity.wait_*`` strategy that gives the waits between attempts."""

    stop: StopAttempts | None = None
    """In Python only: a ``tenacity.stop_*`` strategy that ends a chunk's attempts, in place of ``max_attempts``."""

    def __post_init__(self) -> None:
        require_count("max_attempts", self.max_attempts)
        for name in PYTHON_ONLY:
            value = getattr(self, name)
            require(value is None or callable(value), name, value, f"a tenacity strategy, such as tenacity.{name}_...")
        require_positive("stall", self.stall)
        for name in ("initial_backoff", "max_backoff", "budget", "max_pushback"):
            value = getattr(self, name)
            require(isfinite(value) and value >= 0, name, value, "a finite number, 0 or more")


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Hedge:
    """Hedging: a second request for rows whose first request takes long. The first valid response wins.

    Use it only if the same rows may be computed, and billed, twice.
    """

    share: float = 0.0
    """Maximum share of second requests; 0 disables them, 0.05 allows one for every twenty requests."""

    delay: float | None = None
    """Seconds before a second request is sent; if not given, the 95th percentile of recent latencies, at most three
    times their median."""

    def __post_init__(self) -> None:
        require(isfinite(self.share) and 0 <= self.share <= 1, "share", self.share, "between 0 and 1")
        require_positive("delay", self.delay)


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Dedupe:
    """One request for rows whose requests are equal in every byte. Usage counts requests; all else counts rows."""

    enabled: bool = False
    """Send equal rows once. An answer that the model draws at random (a temperature above 0) is then the same for all
    of them."""


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """A file of answers that later runs take instead of sending the same row again to the same endpoint and codec."""

    path: str | None = None
    """An SQLite file, made with mode 0600; several processes may share it, on a local disk. No cache if not given."""

    ttl: float | None = None
    """Seconds for which an answer counts; for ever if not given."""

    namespace: str = ""
    """Answers are found under the namespace of their own run only: the version of a model, for instance."""

    sampled: bool = False
    """Also keep answers that the model draws at random (a temperature above 0, or a chat without a temperature): every
    later run gets the same draw."""

    def __post_init__(self) -> None:
        if self.path is not None:
            object.__setattr__(self, "path", fspath(self.path))
        require(self.path != "", "path", self.path, "the path of a file")
        require_positive("ttl", self.ttl)
        if self.path is None and (self.ttl is not None or self.namespace or self.sampled):
            raise ConfigError("path is missing: the file of the cache", key="path")


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Deadlines in seconds. Time spent waiting for concurrency, rates or a server's pushback counts for no attempt."""

    connect: float = 10.0
    """Deadline for opening a connection, including name look-up and TLS."""

    attempt: float = 60.0
    """Deadline for one HTTP exchange, from the first byte sent to the last byte read."""

    run: float | None = None
    """Deadline for a whole run, which then stops and keeps all rows that succeeded; unlimited if not given."""

    def __post_init__(self) -> None:
        for name in ("connect", "attempt", "run"):
            require_positive(name, getattr(self, name))


def require_count(name: str, value: object) -> None:
    """Raise `ConfigError` unless ``value`` is a whole number from 1 on."""
    # NumPy's integers are as good as Python's; True is an int as well, but not meant as a number.
    counts = isinstance(value, Integral) and not isinstance(value, bool)
    require(counts, name, value, "a whole number")
    require(counts and cast("int", value) >= 1, name, value, "at least 1")


def require_positive(name: str, value: float | None) -> None:
    """Raise `ConfigError` unless ``value`` is None, or finite and above 0."""
    require(value is None or (isfinite(value) and value > 0), name, value, "a finite number above 0")


def require(condition: bool, name: str, value: object, wanted: str) -> None:
    """Raise `ConfigError`, in which ``value`` is shown, if the ``condition`` does not hold."""
    if not condition:
        raise ConfigError(f"{name} must be {wanted}, not {value!r}", key=name)
