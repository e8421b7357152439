"""Rates and cooldowns in a named actor of Ray, for the workers of one cluster: nothing but Ray is needed.

A call to an actor costs more than many requests do, so that concurrency and budgets are divided among the workers, and
each worker calls every 20 ms at most, for all of its requests.

The actor belongs to the driver that made it, and ends with it. If it is lost before, the client that notices first
makes another one, which knows nothing of what was let through; see `SharedLimits`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.limits.shared import KEY, BackendLostError, Bounds, Call, LimitsBackend, Notice, Reply
from fanout.limits.shared_state import SharedState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NAMESPACE = "fanout"

# Seconds after which a wait for notices begins again, so that a client that is gone leaves none behind.
_POLL = 10.0

# Calls of all clients that may be under way at the same time, most of them waits for notices.
_MOST_CALLS = 10_000

# Notices that are kept for clients that ask late. Each cooldown stands in the answers to calls, too.
_KEPT = 1000


class LimitsActor:
    """The state of shared limits, and the notices to all clients. Its methods take turns where they wait."""

    def __init__(self, bounds: Bounds) -> None:
        self._state = SharedState(bounds)
        self._notices: list[Notice] = []
        self._forgotten = 0
        self._news = asyncio.Event()

    async def reserve(self, call: Call) -> Reply:
        """See `LimitsBackend.reserve`."""
        reply, tells = self._state.reserve(call, time.monotonic())
        if tells:
            self._publish(Notice())
        return reply

    async def cool_down(self, endpoint: str, seconds: float) -> None:
        """See `LimitsBackend.cool_down`."""
        self._state.cool_down(endpoint, seconds, time.monotonic())
        self._publish(Notice(endpoint, seconds))

    async def notices(self, after: int | None) -> tuple[int, list[Notice]]:
        """Wait for notices beyond the first ``after``. Returns their number, and those that are new."""
        if after is None:
            return self._forgotten + len(self._notices), []
        if after >= self._forgotten + len(self._notices):
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._news.wait()
        return self._forgotten + len(self._notices), self._notices[max(0, after - self._forgotten) :]

    def _publish(self, notice: Notice) -> None:
        self._notices.append(notice)
        if len(self._notices) > _KEPT:
            self._forgotten += len(self._notices) - _KEPT
            del self._notices[:-_KEPT]
        self._news.set()
        self._news = asyncio.Event()


class RayBackend(LimitsBackend):
    """Keeps limits in the actor that the URL names: ``ray://NAME``. See `LimitsBackend`."""

    pause = 0.02

    def __init__(self, url: str, key: str, bounds: Bounds) -> None:
        super().__init__(url, key, Bounds(bounds.rates))
        self._actor: Any = None
        self._seen = 0

    async def connect(self) -> None:
        """See `LimitsBackend.connect`."""
        self._actor = await asyncio.to_thread(limits_actor, self.url, self.bounds)
        self._seen, _ = await self._answer(self._actor.notices.remote(None))

    async def reserve(self, call: Call) -> Reply:
        """See `LimitsBackend.reserve`."""
        reply: Reply = await self._answer(self._actor.reserve.remote(call))
        return reply

    async def cool_down(self, endpoint: str, seconds: float) -> None:
        """See `LimitsBackend.cool_down`."""
        await self._answer(self._actor.cool_down.remote(endpoint, seconds))

    async def notices(self) -> AsyncIterator[Notice]:
        """See `LimitsBackend.notices`."""
        while True:
            self._seen, notices = await self._answer(self._actor.notices.remote(self._seen))
            for notice in notices:
                yield notice

    async def close(self) -> None:
        """See `LimitsBackend.close`."""
        self._actor = None

    async def _answer(self, reference: Any) -> Any:
        from ray.exceptions import RayError

        try:
            return await reference
        except RayError as error:
            raise BackendLostError(f"{self.url}: {type(error).__name__}: {error}") from None


def limits_actor(url: str, bounds: Bounds) -> Any:
    """Return the actor that keeps the limits, and make it if there is none. Blocks; raises `BackendLostError`."""
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise ConfigError("shared needs the package ray: pip install 'fanout-ml[ray]'", key=KEY) from None
    if not ray.is_initialized():
        raise ConfigError(f"shared = {url!r} holds for workers of Ray: call ray.init(...) first", key=KEY)
    options = {
        "name": url.partition("://")[2], "namespace": _NAMESPACE, "get_if_exists": True,
        "num_cpus": 0, "max_concurrency": _MOST_CALLS,
    }  # fmt: skip
    try:
        return ray.remote(LimitsActor).options(**options).remote(bounds)
    except (RayError, ConnectionError, ValueError) as error:
        raise BackendLostError(f"{url}: {error}") from None
