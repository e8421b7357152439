"""What a codec wants to know of the model before the first chunk is sent: asked once for a client's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.callbacks import calling
from fanout.classify import classify_error, classify_response, hidden_status, with_address
from fanout.deadline import Deadline
from fanout.errors import ConfigError, TransportError
from fanout.retry import retry
from fanout.stop import Stop
from fanout.types import Action, Response, Verdict

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.stop import StopEvent
    from fanout.upstream.dispatcher import Dispatcher, Exchanged
    from fanout.upstream.endpoint import EndpointState
    from fanout.upstream.group import EndpointGroup

_FOR_THE_CODEC = ("rejected",)
"""Kinds of stop that say that there is no such page; the codec knows what it can do without it."""


async def prepare(codec: Codec, group: EndpointGroup, dispatcher: Dispatcher, stop_event: StopEvent) -> Stop | None:
    """Fetch the metadata of the only endpoint into ``group.prepared``. Returns why the run has to stop, if it has to.

    Runs that begin together ask once, and share what comes of it: if each were to ask in its turn, the last would wait
    for the failures of all others.

    Raises `ConfigError` when the codec cannot go on without what it was not told.
    """
    failures = group.failed_preparations
    async with group.preparing:
        if group.prepared is not None:
            return None
        if group.failed_preparations > failures:
            return group.why_not_prepared
        prepared = await with_metadata(codec, group.balancer.endpoints[0], group, dispatcher, stop_event)
        if not isinstance(prepared, Stop):
            group.prepared = prepared
            return None
        if stop_event.stopped is None:  # a run that is stopped gives up for itself alone
            group.failed_preparations += 1
            group.why_not_prepared = prepared
        return prepared


async def with_metadata(
    codec: Codec, endpoint: EndpointState, group: EndpointGroup, dispatcher: Dispatcher, stop_event: StopEvent
) -> Codec | Stop:
    """Return ``codec`` with this endpoint's metadata, or the reason why there is none. Raises as `prepare` does."""
    responses: list[Response] = []
    while (url := _next_request(codec, endpoint.transport.url, responses)) is not None:
        response = await _fetched(url, endpoint, group, dispatcher, stop_event)
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


async def _fetched(
    url: str, endpoint: EndpointState, group: EndpointGroup, dispatcher: Dispatcher, stop_event: StopEvent
) -> Response | Verdict:
    deadline, attempts = Deadline(), 0
    responses: list[Response] = []

    async def once() -> Verdict | None:
        nonlocal attempts
        attempts += 1
        try:
            exchanged, asked = await dispatcher.make(
                lambda endpoint, _: endpoint.transport.get(url), deadline, only=endpoint
            )
        except BaseException:
            dispatcher.abandon(deadline)
            raise
        verdict = _objection(exchanged, endpoint, dispatcher)
        if isinstance(exchanged, Response):
            responses.append(exchanged)
        if verdict is None:
            dispatcher.succeeded(asked, deadline, first_try=attempts == 1)
        else:
            endpoint.unheard = group.balancer.conceal(verdict.reason)
            if dispatcher.failed(asked, verdict, deadline):
                attempts -= 1
        return verdict

    try:
        verdict = await once()
        if verdict is not None and verdict.action is Action.RETRY:
            exhausted = lambda: attempts >= group.retry.max_attempts or endpoint.out is not None  # noqa: E731 - used once
            verdict = await retry(once, verdict, group.retry, exhausted=exhausted, sleep=stop_event.sleep)
    finally:
        deadline.close()
    return responses[-1] if verdict is None else verdict


def _objection(exchanged: Exchanged, endpoint: EndpointState, dispatcher: Dispatcher) -> Verdict | None:
    """Why this answer is nothing that a codec could learn from, or None."""
    if isinstance(exchanged, Verdict):
        return exchanged
    if isinstance(exchanged, TransportError):
        return classify_error(exchanged)
    meaning = None
    if 200 <= exchanged.status < 300 and (meaning := hidden_status(exchanged)) is None:
        return None
    refused = classify_response(exchanged, meaning=meaning)
    verdict = dispatcher.pause(endpoint, with_address(refused, exchanged.url, "", endpoint.transport.redactor.url))
    if verdict.action is Action.RETRY and verdict.status != 500:
        return verdict
    return verdict if verdict.action is Action.STOP and verdict.stop not in _FOR_THE_CODEC else None
