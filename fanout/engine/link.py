"""The link: what all runs of one client share about its endpoint."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.brake import Brake
from fanout.engine.halt import Bell
from fanout.engine.pace import Pace
from fanout.limits import Gate, Permits, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.settings import Limits, RetryPolicy, Timeouts
    from fanout.transport import Transport


class Link:
    """State of one endpoint as this client sees it."""

    def __init__(self, transport: Transport, *, limits: Limits, retry: RetryPolicy, timeouts: Timeouts) -> None:
        self.transport = transport
        self.limits = limits
        self.retry = retry
        self.timeouts = timeouts
        now = asyncio.get_running_loop().time
        auto = limits.concurrency == "auto"
        self.pace = Pace(now(), largest=limits.most_in_flight, changed=self._follow) if auto else None
        concurrency = limits.most_in_flight if self.pace is None else self.pace.limit
        self.permits = Permits(concurrency)
        self.rate = Rate(limits.requests_per_second)
        self.gate = Gate()
        transport.withhold_if(lambda: self.gate.wait(now()) > 0)
        self.bell = Bell()
        self.brake = Brake(
            concurrency=concurrency,
            budget=retry.budget,
            suspect_wait=self._patience(concurrency),
            changed=self.bell.ring,
        )
        self.followers: dict[Callable[[], None], None] = {}
        """Called when more or fewer requests may be in flight than before."""
        self.requests = 0
        self.answered = False
        """An HTTP answer of any kind has come: the endpoint exists."""
        self.successes = 0
        """Chunks answered so far; if there is one, requests of this form can succeed. Metadata is none of them."""
        self._unlimited = limits.requests_per_second is None and limits.max_requests is None
        self.prepared = False
        """The codec has learnt what the endpoint tells of its model."""
        self.preparing = asyncio.Lock()

    def unhindered(self, now: float) -> bool:
        """True where nothing keeps a request from going at once, and no slot or number has to be reserved for it."""
        return self._unlimited and not self.brake.braked and self.gate.wait(now) == 0

    def crowded(self, asker: object) -> bool:
        """More have a permit than there are now, and ``asker`` is not the probe for which the others may be waiting."""
        return self.permits.in_use > self.permits.total and not self.brake.is_probe(asker)

    @property
    def chosen(self) -> int | None:
        """The limit on requests in flight that "auto" has come to; None where it is fixed."""
        return None if self.pace is None else self.pace.limit

    def _patience(self, concurrency: int) -> float:
        """So often that, in half of the time to a stall, every chunk in hand can use its attempts up as a probe."""
        return self.retry.stall / 2 / (concurrency * self.retry.max_attempts)

    def _follow(self, concurrency: int) -> None:
        self.permits.resize(concurrency)
        self.brake.resize(concurrency, suspect_wait=self._patience(concurrency))
        for follow in list(self.followers):
            follow()

    @property
    def spent(self) -> bool:
        """True when no other request may be sent (``max_requests``)."""
        return self.limits.max_requests is not None and self.requests >= self.limits.max_requests
