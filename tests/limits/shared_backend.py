"""A backend of shared limits in this process, for tests in virtual time: it can be lost, begin anew, and be slow."""

from __future__ import annotations

import asyncio

from fanout.limits.shared import BackendLostError, LimitsBackend, Notice
from fanout.limits.shared_state import SharedState


class Hub:
    """The state that all backends of a test share."""

    def __init__(self, *, delay=0.001):
        self.delay = delay
        self.is_down = False
        self.state = None
        self.queues = []
        self.calls = []
        self.times_connected = 0

    def begin_anew(self):
        self.state = None

    def go_down(self):
        self.is_down = True
        for queue in self.queues:
            queue.put_nowait(None)

    def publish(self, notice):
        for queue in self.queues:
            queue.put_nowait(notice)


HUBS: dict[str, Hub] = {}


class HubBackend(LimitsBackend):
    def __init__(self, url, key, bounds):
        super().__init__(url, key, bounds)
        self.hub = HUBS[url]
        self.queue: asyncio.Queue[Notice | None] = asyncio.Queue()
        self.is_closed = False

    async def _reach(self):
        await asyncio.sleep(self.hub.delay)
        if self.hub.is_down:
            raise BackendLostError("the hub is down")
        if self.hub.state is None:
            self.hub.state = SharedState(self.bounds)
        return self.hub.state

    async def connect(self):
        self.queue = asyncio.Queue()
        await self._reach()
        self.hub.times_connected += 1
        self.hub.queues.append(self.queue)

    async def reserve(self, call):
        state = await self._reach()
        self.hub.calls.append(call)
        reply, tells = state.reserve(call, asyncio.get_running_loop().time())
        if tells:
            self.hub.publish(Notice())
        await asyncio.sleep(self.hub.delay)
        return reply

    async def cool_down(self, endpoint, seconds):
        state = await self._reach()
        state.cool_down(endpoint, seconds, asyncio.get_running_loop().time())
        self.hub.publish(Notice(endpoint, seconds))

    async def notices(self):
        while True:
            notice = await self.queue.get()
            if notice is None:
                raise BackendLostError("the connection of the hub broke")
            await asyncio.sleep(self.hub.delay)
            yield notice

    async def close(self):
        self.is_closed = True
        if self.queue in self.hub.queues:
            self.hub.queues.remove(self.queue)
