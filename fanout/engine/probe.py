"""Several endpoints get to be known: each tells of its model, and those of another one are not let in."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fanout.callbacks import calling
from fanout.engine.metadata import with_metadata
from fanout.errors import ConfigError
from fanout.stop import Stop, WaitQueue
from fanout.types import Action, Event, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.engine.tasks import Tasks
    from fanout.stop import StopEvent
    from fanout.types import ModelInfo
    from fanout.upstream.dispatcher import Dispatcher
    from fanout.upstream.endpoint import EndpointState
    from fanout.upstream.group import EndpointGroup

_AGAIN_AFTER = 1.0
_AGAIN_AT_MOST = 30.0


class EndpointProbe:
    """Asks the endpoints of a pool about their model, all at once, for as long as the run lasts.

    Work begins with the first that has answered; the others join in when they have.
    """

    def __init__(
        self,
        codec: Codec,
        group: EndpointGroup,
        dispatcher: Dispatcher,
        stop_event: StopEvent,
        emit: Callable[[Event], None],
        tasks: Tasks,
    ) -> None:
        self._codec = codec
        self._group = group
        self._dispatcher = dispatcher
        self._stop_event = stop_event
        self._emit = emit
        self._run_tasks = tasks
        self._news = WaitQueue()
        self._failed: dict[EndpointState, Stop] = {}
        self._error: ConfigError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def first(self) -> Stop | None:
        """Wait until one endpoint has told what the codec needs. Returns why the run has to stop, if none does.

        Raises `ConfigError` where the codec cannot go on with what it was told.
        """
        strangers = [
            endpoint for endpoint in self._group.balancer.endpoints if not endpoint.welcome and endpoint.out is None
        ]
        self._tasks = [self._run_tasks.start(partial(self._introduce, endpoint), aside=True) for endpoint in strangers]
        while self._group.prepared is None and self._stop_event.stopped is None and self._error is None:
            if len(self._failed) == len(strangers):
                return self._failed[strangers[0]]
            await self._stop_event.sleep(60.0, self._news)
        if self._error is not None and self._group.prepared is None:
            raise self._error
        return None

    async def close(self) -> None:
        """Ask no more."""
        self._run_tasks.cancel(self._tasks)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _introduce(self, endpoint: EndpointState) -> None:
        wait = _AGAIN_AFTER
        while not endpoint.welcome and endpoint.out is None and self._stop_event.stopped is None:
            stop = await self._met(endpoint)
            if stop is None:
                return
            self._failed.setdefault(endpoint, stop)
            self._news.ring()
            await self._stop_event.sleep(wait)
            wait = min(2 * wait, _AGAIN_AT_MOST)

    async def _met(self, endpoint: EndpointState) -> Stop | None:
        stop = None
        try:
            prepared = await with_metadata(self._codec, endpoint, self._group, self._dispatcher, self._stop_event)
        except ConfigError as error:
            self._error = self._error or error
            self._put_out(endpoint, str(error))
        else:
            if isinstance(prepared, Stop):
                stop = prepared
            else:
                self._welcome(endpoint, prepared)
        self._news.ring()
        return stop

    def _welcome(self, endpoint: EndpointState, codec: Codec) -> None:
        with calling("the codec's describe"):
            model = codec.describe()
        if self._group.prepared is None:
            self._group.balancer.model, self._group.prepared = model, codec
        elif not _alike(model, self._group.balancer.model):
            self._put_out(endpoint, f"it serves {_named(model)}, another endpoint {_named(self._group.balancer.model)}")
            return
        endpoint.welcome = True
        self._group.wait_queue.ring()

    def _put_out(self, endpoint: EndpointState, reason: str) -> None:
        reason = self._group.balancer.conceal(reason)
        endpoint.out = Verdict(action=Action.STOP, reason=reason)
        self._emit(Event(kind="excluded", reason=f"{endpoint.transport.shown_url} is not asked: {reason}"))


def _alike(one: ModelInfo | None, other: ModelInfo | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.name, one.inputs, one.outputs) == (other.name, other.inputs, other.outputs)


def _named(model: ModelInfo | None) -> str:
    if model is None:
        return "a model that it tells nothing of"
    tensors = [
        f"{tensor.name} {tensor.datatype} {list(tensor.shape or ())}" for tensor in (*model.inputs, *model.outputs)
    ]
    return f"the model {model.name!r} ({', '.join(tensors)})" if tensors else f"the model {model.name!r}"
