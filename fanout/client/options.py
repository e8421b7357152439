"""Types of what a client takes beside the endpoint and the codec, and of what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import TypeVar as TypeVarWithDefault

    from fanout._redact import Redactor
    from fanout.limits import RateLimiter
    from fanout.settings import Hedge, Limits, RetryPolicy, Timeouts
    from fanout.transport import HeaderSource, Transport, TransportWrapper
    from fanout.types import Answers, Event

    V = TypeVarWithDefault("V", default=Answers)
else:
    V = TypeVar("V")
    """What `map` gives."""


class ClientOptions(TypedDict, total=False):
    """See `Client`."""

    chunk_rows: int
    chunk_max_bytes: int | None
    chunk_max_tokens: int | None
    count_tokens: Callable[[Any], float] | None
    max_pending: int
    limits: Limits | RateLimiter | None
    retry: RetryPolicy | None
    timeouts: Timeouts | None
    hedge: Hedge | None
    headers: HeaderSource | None
    on_event: Callable[[Event], None] | None
    transport: Transport | TransportWrapper | None
    secrets: Iterable[str] | Redactor
