"""The interfaces between clients and telemetry.

Metrics come from the statistics that every client keeps, and are read when they are collected. Spans need three places
in the engine: the transport, the attempter and the delivery of chunks, which are wrapped only if a client is traced.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from fanout._redact import Redactor
    from fanout.codecs.base import Codec
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.run import Run
    from fanout.results import ChunkResult, Statistics
    from fanout.statistics import Latencies
    from fanout.transport import Transport
    from fanout.types import Verdict


class Measured(Protocol):
    """An open client, as telemetry sees it."""

    @property
    def name(self) -> str:
        """Name of the client, which several clients may share."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which its counters change."""
        ...

    @property
    def concurrency(self) -> int:
        """Current limit of requests in flight."""
        ...

    def statistics(self) -> Statistics:
        """The counters since the client was opened."""
        ...

    def latencies(self) -> Latencies:
        """The latencies since the client was opened."""
        ...


class RunTrace(Protocol):
    """Traces one run."""

    def attempter(self, attempter: Any) -> Any:
        """Return an attempter that traces the attempts of ``attempter``."""
        ...

    def delivering(self, deliver: Callable[[ChunkResult], None]) -> Callable[[ChunkResult], None]:
        """Return a function that traces the end of each chunk, and calls ``deliver``."""
        ...

    def handling(self, handle: Callable[[ChunkTask, Verdict, float | None], None]) -> Callable[..., None]:
        """Return a function that traces each failed attempt, and calls ``handle``."""
        ...

    def following(self, run: Run) -> AbstractContextManager[None]:
        """A context that encloses the run."""
        ...


class Tracing(Protocol):
    """Traces the runs and requests of clients."""

    def run(self, codec: Codec, conceal: Callable[[str], str], callers: Sequence[Any] | None) -> RunTrace:
        """Begin to trace a run.

        Args:
            conceal: redacts a text.
            callers: the results of `caller` for the callers of a batch of `predict`; None for any other run.
        """
        ...

    def caller(self) -> Any:
        """Return the trace of the current caller, for `run`."""
        ...

    def transport(
        self, transport: Transport, url: str, redactor: Redactor, *, is_own: bool = True, propagates: bool = True
    ) -> Transport:
        """Return a transport that traces each request.

        Args:
            url: the one that most requests go to.
            redactor: redacts URLs.
            is_own: ``transport`` is fanout's, and knows ``Request.own_fields``.
            propagates: requests may carry the context of their trace.
        """
        ...


class Telemetry(ABC):
    """Follows any number of clients, given to each as its option ``telemetry``."""

    # An attribute, so that a client asks once as it is made, and an untraced one pays for no call.
    tracing: Tracing | None = None
    """Traces runs and requests; None makes no spans."""

    @abstractmethod
    def follow(self, client: Measured) -> None:
        """Follow a client that was opened."""

    @abstractmethod
    def unfollow(self, client: Measured) -> None:
        """Follow a client no longer, which closes. Called on its loop."""
