"""Metadata: the codec learns about the model before the first chunk is sent, once in a client's life.

`prepare` asks a single endpoint. `EndpointProbe` asks several at once: rows go to the first one that has answered, the
others join as they answer, and one that serves another model is excluded.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fanout.callbacks import calling
from fanout.classify import classify_error, classify_response, hidden_status, with_address
from fanout.errors import ConfigError, TransportError
from fanout.results import Event
from fanout.stop import Stop, WaitQueue
from fanout.types import Action, Response, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.engine.workers import Tasks
    from fanout.stop import StopEvent
    from fanout.types import ModelInfo
    from fanout.upstream.admission import Dispatcher, Exchanged
    from fanout.upstream.group import EndpointGroup, EndpointState

# Seconds between two probes of an endpoint that sends no metadata.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0

# Seconds after which the outcome of the probes is looked at without a notification.
_LOOK_AGAIN = 60.0


async def prepare(codec: Codec, group: EndpointGroup, dispatcher: Dispatcher, stop_event: StopEvent) -> Stop | None:
    """Fetch the metadata of the only endpoint into ``group.metadata``. Returns why the run has to stop, if it has to.

    Runs that begin together ask once and share the outcome: if each asked in its turn, the last one would wait for the
    failures of all others. A failure concerns only runs with the same header fields.

    Raises:
        ConfigError: the codec cannot work without options that the metadata does not give.
    """
    metadata = group.metadata
    # Read before the wait for the lock: a run that came while another one failed shares that failure.
    failures, headers = metadata.failures, dispatcher.call.headers
    async with metadata.lock:
        # Another run has fetched the metadata in the meantime.
        if metadata.codec is not None:
            return None
        if metadata.failures > failures and metadata.failed_with == headers:
            return metadata.stop
        endpoint = group.balancer.endpoints[0]
        prepared = await with_metadata(codec, endpoint, group, dispatcher, stop_event)
        if not isinstance(prepared, Stop):
            metadata.codec, endpoint.not_ready_reason = prepared, None
            return None
        if stop_event.stopped is None:  # a run that is stopped gives up for itself alone
            metadata.failures += 1
            metadata.stop, metadata.failed_with = prepared, headers
        return prepared


async def with_metadata(
    codec: Codec, endpoint: EndpointState, group: EndpointGroup, dispatcher: Dispatcher, stop_event: StopEvent
) -> Codec | Stop:
    """Return ``codec`` with this endpoint's metadata, or the reason why there is none. Raises as `prepare` does."""
    responses: list[Response] = []
    while (url := _next_request(codec, endpoint.transport.url, responses)) is not None:
        response = await _fetch(url, endpoint, group, dispatcher, stop_event)
        if isinstance(response, Verdict):
            unreachable = response.unreachable and not endpoint.answered
            kind = response.stop if response.action is Action.STOP else "unreachable" if unreachable else "metadata"
            return Stop(kind, group.balancer.conceal(response.reason))
        responses.append(response)
    try:
        with calling("the codec's with_metadata"):
            return codec.with_metadata(responses)
    except ConfigError as error:  # it quotes the server, and servers quote what they were sent
        raise ConfigError(group.balancer.conceal(str(error)), key=error.key) from None


def _next_request(codec: Codec, url: str, responses: list[Response]) -> str | None:
    """The first of the codec's metadata requests without a response, if there is one."""
    with calling("the codec's metadata_requests"):
        urls = [*codec.metadata_requests(url, responses)]
    return urls[len(responses)] if len(urls) > len(responses) else None


async def _fetch(
    url: str, endpoint: EndpointState, group: EndpointGroup, dispatcher: Dispatcher, stop_event: StopEvent
) -> Response | Verdict:
    """GET ``url`` from ``endpoint``, with the retries that a chunk gets. The verdict if none of them succeeded."""
    ticket, attempts = dispatcher.ticket(), 0
    response: Exchanged | None = None

    async def attempt() -> Verdict | None:
        nonlocal attempts, response
        attempts += 1
        async with ticket:
            response = await dispatcher.exchange(ticket, url, only=endpoint)
            verdict = ticket.report(_objection(response, endpoint, dispatcher), first=attempts == 1)
        if verdict is not None:
            # Shown in the statistics of the endpoint until it is ready.
            endpoint.not_ready_reason = group.balancer.conceal(verdict.reason)
            # A refusal for which no row is to blame is charged to no attempt, as for a chunk.
            attempts -= ticket.refund
        return verdict

    backoff, now = group.backoff, asyncio.get_running_loop().time
    started = now()
    try:
        sent, verdict = 1, await attempt()
        while verdict is not None and verdict.action is Action.RETRY and endpoint.excluded is None:
            delay = backoff(verdict, sent=sent, charged=attempts, seconds=now() - started)
            if delay is None:
                break
            await stop_event.sleep(delay)
            sent, verdict = sent + 1, await attempt()
    finally:
        ticket.close()
    if verdict is not None:
        return verdict
    assert isinstance(response, Response)
    return response


def _objection(response: Exchanged, endpoint: EndpointState, dispatcher: Dispatcher) -> Verdict | None:
    """The verdict on a response that a codec cannot learn from; None for one that it can."""
    if isinstance(response, Verdict):
        return response
    if isinstance(response, TransportError):
        return classify_error(response)
    meaning = None
    if 200 <= response.status < 300 and (meaning := hidden_status(response)) is None:
        return None
    refused = classify_response(response, meaning=meaning)
    verdict = with_address(refused, response.url, "", endpoint.transport.shown)
    # Most other refusals mean that there is no such page: the codec knows whether it can do without it.
    fatal = verdict.action is Action.STOP and verdict.stop != "rejected"
    if fatal or (verdict.action is Action.RETRY and verdict.status != 500):
        return verdict
    # The page may be missing, but a wait that the server asks for holds for the rows as well.
    paused = dispatcher.reporter.pause(endpoint, verdict)
    return paused if paused.action is Action.STOP and paused.stop == "pushback" else None


class EndpointProbe:
    """Fetches the metadata of several endpoints at once, for as long as the run lasts."""

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
        self._outcomes = WaitQueue()
        """Notified of the outcome of each probe."""

        self._failed: dict[EndpointState, Stop] = {}
        self._error: ConfigError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def first(self) -> Stop | None:
        """Wait until one endpoint has sent the metadata. Returns why the run has to stop, if none does.

        Raises `ConfigError` where the codec cannot work with the metadata.
        """
        unprobed = [
            endpoint
            for endpoint in self._group.balancer.endpoints
            if endpoint.not_ready_reason is not None and endpoint.excluded is None
        ]
        self._tasks = [self._run_tasks.start(partial(self._probe, endpoint), aside=True) for endpoint in unprobed]
        metadata = self._group.metadata
        while metadata.codec is None and self._stop_event.stopped is None and self._error is None:
            # Each has failed at least once; the run stops with the reason of the first, as a single endpoint's would.
            if len(self._failed) == len(unprobed):
                return self._failed[unprobed[0]]
            await self._stop_event.sleep(_LOOK_AGAIN, self._outcomes)
        if self._error is not None and metadata.codec is None:
            raise self._error
        return None

    async def close(self) -> None:
        """End the probes."""
        # Probes run beside the run's tasks, so no other part of the run ends them.
        self._run_tasks.cancel(self._tasks)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _probe(self, endpoint: EndpointState) -> None:
        """Probe one endpoint until it is ready or excluded, or the run is stopped."""
        wait = _FIRST_WAIT
        while endpoint.not_ready_reason is not None and endpoint.excluded is None and self._stop_event.stopped is None:
            try:
                prepared = await with_metadata(self._codec, endpoint, self._group, self._dispatcher, self._stop_event)
            except ConfigError as error:
                # The codec cannot work with this model; an endpoint with another one may still serve.
                self._error = self._error or error
                self._exclude(endpoint, str(error))
                prepared = None
            if isinstance(prepared, Stop):
                self._failed.setdefault(endpoint, prepared)
            elif prepared is not None:
                self._accept(endpoint, prepared)
            self._outcomes.notify_all()
            if not isinstance(prepared, Stop):
                return
            await self._stop_event.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _accept(self, endpoint: EndpointState, codec: Codec) -> None:
        """Send rows to ``endpoint`` from now on, if it serves the model that the first one does."""
        with calling("the codec's describe"):
            model = codec.describe()
        metadata = self._group.metadata
        if metadata.codec is None:
            metadata.model, metadata.codec = model, codec
        elif not _alike(model, metadata.model):
            self._exclude(endpoint, f"it serves {_described(model)}, another endpoint {_described(metadata.model)}")
            return
        endpoint.not_ready_reason = None
        # Tickets that wait for another endpoint may go to this one.
        self._group.balancer.wait_queue.notify_all()

    def _exclude(self, endpoint: EndpointState, reason: str) -> None:
        reason = self._group.balancer.conceal(reason)
        endpoint.excluded = reason
        self._emit(Event(kind="excluded", reason=f"{endpoint.transport.shown_url} is not asked: {reason}"))


def _alike(one: ModelInfo | None, other: ModelInfo | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.name, one.inputs, one.outputs) == (other.name, other.inputs, other.outputs)


def _described(model: ModelInfo | None) -> str:
    if model is None:
        return "a model without metadata"
    tensors = [
        f"{tensor.name} {tensor.datatype} {list(tensor.shape or ())}" for tensor in (*model.inputs, *model.outputs)
    ]
    return f"the model {model.name!r} ({', '.join(tensors)})" if tensors else f"the model {model.name!r}"
