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
    from collections.abc import Iterator

    from fanout.codecs.base import Codec
    from fanout.stop import StopEvent
    from fanout.upstream.dispatcher import Dispatcher, Exchanged
    from fanout.upstream.endpoint import EndpointState
    from fanout.upstream.group import EndpointGroup

_FOR_THE_CODEC = ("rejected",)
"""Kinds of stop that say that there is no such page; the codec knows what it can do without it."""


async def prepare(codec: Codec, link: EndpointGroup, exchanges: Dispatcher, halt: StopEvent) -> Stop | None:
    """Let ``codec`` learn from the only endpoint. Returns why the run has to stop, if it has to.

    Runs that begin together ask once, and share what comes of it: if each were to ask in its turn, the last would wait
    for the failures of all others.

    Raises `ConfigError` when the codec cannot go on without what it was not told.
    """
    failures = link.failed_preparations
    async with link.preparing:
        if link.prepared:
            return None
        if link.failed_preparations > failures:
            return link.why_not_prepared
        stop = await learn_from(link.pool.hosts[0], codec, link, exchanges, halt)
        link.prepared = stop is None
        if halt.stopped is None and stop is not None:  # a run that is stopped gives up for itself alone
            link.failed_preparations += 1
            link.why_not_prepared = stop
        return stop


async def learn_from(
    host: EndpointState, codec: Codec, link: EndpointGroup, exchanges: Dispatcher, halt: StopEvent
) -> Stop | None:
    """Let ``codec`` learn what this endpoint tells of its model. Returns why it cannot. Raises as `prepare` does."""
    for url in _urls(codec, host):
        reply = await _fetched(url, host, link, exchanges, halt)
        if isinstance(reply, Verdict):
            unreachable = reply.unreachable and not host.answered
            kind = reply.stop if reply.action is Action.STOP else "unreachable" if unreachable else "metadata"
            return Stop(kind, link.pool.conceal(reply.reason))
        try:
            with calling("the codec's learn"):
                codec.learn(reply)
        except ConfigError as error:  # it quotes the server, and servers quote what they were sent
            raise ConfigError(link.pool.conceal(str(error)), key=error.key) from None
    return None


def _urls(codec: Codec, host: EndpointState) -> Iterator[str]:
    """What the codec's `prepare` gives, each once the answer to the one before has been learnt from."""
    with calling("the codec's prepare"):
        urls = iter(codec.prepare(host.transport.url))
    while True:
        with calling("the codec's prepare"):
            url = next(urls, None)
        if url is None:
            return
        yield url


async def _fetched(
    url: str, host: EndpointState, link: EndpointGroup, exchanges: Dispatcher, halt: StopEvent
) -> Response | Verdict:
    deadline, attempts = Deadline(), 0
    replies: list[Response] = []

    async def once() -> Verdict | None:
        nonlocal attempts
        attempts += 1
        try:
            exchanged, asked = await exchanges.make(lambda host, _: host.transport.get(url), deadline, only=host)
        except BaseException:
            exchanges.abandon(deadline)
            raise
        verdict = _objection(exchanged, host, exchanges)
        if isinstance(exchanged, Response):
            replies.append(exchanged)
        if verdict is None:
            exchanges.succeeded(asked, deadline, first_try=attempts == 1)
        else:
            host.unheard = link.pool.conceal(verdict.reason)
            if exchanges.failed(asked, verdict, deadline):
                attempts -= 1
        return verdict

    try:
        verdict = await once()
        if verdict is not None and verdict.action is Action.RETRY:
            exhausted = lambda: attempts >= link.retry.max_attempts or host.out is not None  # noqa: E731 - used once
            verdict = await retry(once, verdict, link.retry, exhausted=exhausted, sleep=halt.sleep)
    finally:
        deadline.close()
    return replies[-1] if verdict is None else verdict


def _objection(exchanged: Exchanged, host: EndpointState, exchanges: Dispatcher) -> Verdict | None:
    """Why this answer is nothing that a codec could learn from, or None."""
    if isinstance(exchanged, Verdict):
        return exchanged
    if isinstance(exchanged, TransportError):
        return classify_error(exchanged)
    meaning = None
    if 200 <= exchanged.status < 300 and (meaning := hidden_status(exchanged)) is None:
        return None
    refused = classify_response(exchanged, meaning=meaning)
    verdict = exchanges.pause(host, with_address(refused, exchanged.url, "", host.transport.redactor.url))
    if verdict.action is Action.RETRY and verdict.status != 500:
        return verdict
    return verdict if verdict.action is Action.STOP and verdict.stop not in _FOR_THE_CODEC else None
