"""One attempt: a work's payload sent, and the verdict on what came, or the proven answers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fanout._escape import shortened
from fanout.callbacks import abnormal, calling
from fanout.classify import classify_error, classify_invalid, classify_response, with_address
from fanout.engine.hedging import HedgedRequests
from fanout.engine.lengths import Lengths
from fanout.errors import CallbackError, InvalidResponse
from fanout.stop import Stop, WaitQueue
from fanout.transport import credentials_refused
from fanout.types import Action, Array, DecodedResponse, Response, Values, Verdict, schema_of
from fanout.upstream.admission import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.deadline import Deadline
    from fanout.engine.task import ChunkTask
    from fanout.engine.validator import ResponseValidator
    from fanout.statistics import Counters
    from fanout.upstream.decoding import Decoded
    from fanout.upstream.dispatcher import Dispatcher, Exchanged, Send
    from fanout.upstream.endpoint import EndpointState
    from fanout.upstream.group import EndpointGroup

_NO_ACCIDENT = 3
"""As many chunks in a row that an endpoint forbids are no accident of their rows."""

_PATIENCE = 3
"""As many times ``max_attempts`` a full endpoint may refuse a chunk for nothing: some say 503 to what crashes them."""

_LONGEST_REASON = 2000
_LOOKED_AT = 2 * _LONGEST_REASON
"""Characters of a reason in which secrets are looked for: it may repeat anything that a server says."""

Outcome: TypeAlias = dict[str, Array] | Verdict
"""Answers that passed the proof, by output name, or why there are none."""


class _HeadersRefused(Exception):  # noqa: N818 - a way out of judging, not an error
    """An answer with status 200 says that the credentials are refused, and new ones may be had."""

    def __init__(self, response: Response, endpoint: EndpointState, status: int) -> None:
        super().__init__(status)
        self.response = response
        self.endpoint = endpoint
        self.status = status


class Attempter:
    """Makes attempts for the works of one run.

    Args:
        stop: stops the run; called before anything is awaited, so that no other request slips out.
        independent: answers of rows may differ in length.
        owner: by which connections remember whose rows were answered over them. It refers to nothing.
    """

    def __init__(
        self,
        codec: Codec,
        group: EndpointGroup,
        dispatcher: Dispatcher,
        validator: ResponseValidator,
        counters: Counters,
        *,
        stop: Callable[[Stop], None],
        owner: object,
        independent: bool = False,
    ) -> None:
        self._owner = owner
        self._codec = codec
        self._group = group
        self._dispatcher = dispatcher
        self._validator = validator
        self._counters = counters
        self._stop = stop
        self.ended = WaitQueue()
        """Rings when an attempt has failed, for those who wait until others in flight have shown what is wrong."""

        self._lengths = Lengths(codec.if_lengths_differ) if validator.learns_shapes and not independent else None
        self._answers = 0
        self._races = None if group.hedger is None else HedgedRequests(group.hedger, group, dispatcher, counters)

    def ticket(self) -> Ticket:
        """Make a ticket for the attempts of the current asyncio task, which has to call its `close` at the end."""
        return Ticket()

    async def run(self, work: ChunkTask, deadline: Ticket) -> Outcome:
        """Send an encoded work once and judge what comes."""
        payload = work.payload
        assert payload is not None
        if work.sent:
            self._counters.retries += 1
        work.sent += 1
        work.charged += 1
        rows = self._owner, work.chunk.start, work.chunk.stop
        send: Send = lambda endpoint, fresh: endpoint.transport.post(payload, fresh=fresh, rows=rows)  # noqa: E731 - hot
        if self._races is None:
            outcome, endpoint = await self._judged_exchange(work, send, deadline)
        else:
            attempt = partial(self._judged_exchange, work)
            (outcome, endpoint), deadline = await self._races.run(attempt, send)
        work.endpoint = endpoint
        if not isinstance(outcome, Verdict):
            self._group.successes += 1
            assert endpoint is not None
            endpoint.served = True
            if endpoint.forbidden:
                endpoint.forbidden.clear()
            self._dispatcher.succeeded(endpoint, deadline, first_try=work.sent == 1)
            return outcome
        others_served = work.fails_alone(self._group.successes)
        verdict = work.in_context(outcome)
        of_endpoint = self._dispatcher.failed(
            endpoint,
            verdict,
            deadline,
            alone=others_served and verdict.rows_suspect,
            last=not others_served and work.charged >= self._group.retry.max_attempts > 1,
        )
        # A row that fails while those beside it are answered comes to an end, even if it is all that is sent.
        if (of_endpoint and not work.confirmed) or (others_served and verdict.no_room and self._patient_with(work)):
            work.refund_attempt()
        self.ended.ring()
        return verdict

    async def _judged_exchange(
        self, work: ChunkTask, send: Send, deadline: Deadline, only: EndpointState | None = None
    ) -> tuple[Outcome, EndpointState | None]:
        try:
            exchanged, endpoint = await self._dispatcher.make(send, deadline, work, only)
            aside = None
            if isinstance(exchanged, Response) and len(exchanged.body) > self._codec.most_bytes_on_loop:
                aside = await self._decoded_aside(exchanged, work)
            try:
                outcome = self._judged(exchanged, endpoint, work, deadline.started, aside)
            except _HeadersRefused as refused:
                outcome, endpoint = await self._with_new_headers(work, send, deadline, refused)
            if isinstance(outcome, Verdict) and outcome.action is Action.STOP:
                self._stop(Stop(outcome.stop, outcome.reason))
            return outcome, endpoint
        except BaseException:
            self._dispatcher.abandon(deadline)
            raise

    async def _with_new_headers(
        self, work: ChunkTask, send: Send, deadline: Deadline, refused: _HeadersRefused
    ) -> tuple[Outcome, EndpointState | None]:
        """Send once more, with new headers, what an answer with status 200 refused for its credentials."""
        exchanged: Exchanged = refused.response
        endpoint: EndpointState | None = refused.endpoint
        renewed = await self._dispatcher.renewed(refused.endpoint, refused.status, deadline)
        if renewed is True:
            exchanged, endpoint = await self._dispatcher.make(send, deadline, work, refused.endpoint)
        elif renewed:
            exchanged = renewed
        return self._judged(exchanged, endpoint, work, deadline.started, renewed=True), endpoint

    def _patient_with(self, work: ChunkTask) -> bool:
        """False once a chunk has come back so often that its rows are as suspect as the endpoint."""
        return work.attempts - work.charged < _PATIENCE * self._group.retry.max_attempts

    async def _decoded_aside(self, response: Response, work: ChunkTask) -> Decoded | None:
        """Decode a large answer on the helper thread. None for one that is no success, or decoded without effort."""
        if not 200 <= response.status < 300 or self._codec.decodes_at_once(response):
            return None
        return await self._group.decoding.decode(self._codec, response, work.n, self._validator)

    def _judged(
        self,
        exchanged: Exchanged,
        endpoint: EndpointState | None,
        work: ChunkTask,
        sent: float,
        aside: Decoded | None = None,
        *,
        renewed: bool = False,
    ) -> Outcome:
        if not isinstance(exchanged, Response):
            return exchanged if isinstance(exchanged, Verdict) else self._shown(classify_error(exchanged))
        assert endpoint is not None
        if not 200 <= exchanged.status < 300:
            return self._weighed(exchanged, self._classified(exchanged, endpoint, work), endpoint, work)
        decoded: Array | Values = {}
        try:
            decoded = self._decoded(exchanged, work, endpoint, sent, aside)
            checked = self._validator.checked(decoded, work.n) if aside is None else self._checked(decoded, work, aside)
        except CallbackError:
            raise
        except Exception as problem:  # noqa: BLE001 - values of any kind, and too many for the memory that there is
            error = problem if isinstance(problem, InvalidResponse) else _unchecked(problem)
            if (stop := self._stop_for_lengths(work, decoded, error)) is not None:
                return stop
            if error.rows:
                error = InvalidResponse(work.in_input(str(error), error.rows), error_kind=error.error_kind)
            verdict = self._classified(exchanged, endpoint, work, error)
            status = verdict.status if endpoint.transport.can_renew_headers and not renewed else None
            if status in (401, 403) and credentials_refused(status, exchanged.headers, exchanged.body):
                raise _HeadersRefused(exchanged, endpoint, status) from None
            return self._weighed(exchanged, verdict, endpoint, work)
        if not self._validator.settled and (stop := self._stop_for_lengths(work, checked)) is not None:
            return stop
        self._answers += 1
        return checked

    def _stop_for_lengths(
        self, work: ChunkTask, outputs: Array | Values, error: InvalidResponse | None = None
    ) -> Verdict | None:
        """A stop, once it is sure that the answers of rows differ in length."""
        if self._lengths is None or (error is not None and error.error_kind != "shape"):
            return None
        if error is not None and error.lengths:
            why = self._lengths.differ_within(work.chunk, error.lengths)
        else:
            if self._group.balancer.only is None:  # an endpoint with another model is out of step, not its rows
                return None
            named = outputs if isinstance(outputs, Mapping) else {"": outputs}
            if not (named and all(isinstance(array, np.ndarray) for array in named.values())):
                return None
            why = self._lengths.differ_between(
                work.chunk, schema_of(named) or {}, self._validator.schema, self._answers
            )
        return None if why is None else Verdict(action=Action.STOP, stop="rejected", reason=why, error_kind="shape")

    def _checked(self, values: Array | Values, work: ChunkTask, aside: Decoded) -> dict[str, Array]:
        """The outputs of an answer that was decoded aside, where it has been checked too, and against today's form."""
        if aside.checked is not None and aside.schema is self._validator.schema:
            return aside.checked.get()
        return self._validator.checked(values, work.n)

    def _weighed(self, response: Response, verdict: Verdict, endpoint: EndpointState, work: ChunkTask) -> Verdict:
        """What ``verdict`` means for the endpoint, once it is clear that its rows are not to blame for a 403."""
        if verdict.status == 403 and verdict.action is Action.STOP and verdict.stop == "refused":
            expired = credentials_refused(403, response.headers, response.body)
            if not expired and self._rows_may_be_forbidden(endpoint, work):
                return replace(verdict, action=Action.SPLIT)
        return self._dispatcher.pause(endpoint, verdict)

    def _rows_may_be_forbidden(self, endpoint: EndpointState, work: ChunkTask) -> bool:
        """True where a 403 may be that of a moderator or a firewall, which refuse single rows.

        To send smaller requests shows it, so the rows come under suspicion first. Where other endpoints can do the
        work, one that has served nothing, or that forbids several chunks in a row, is to blame itself.
        """
        if self._group.balancer.only is not None or not self._group.balancer.dispensable(endpoint):
            return True
        endpoint.forbidden.add(work.chunk.start)
        return endpoint.served and len(endpoint.forbidden) < _NO_ACCIDENT

    def _classified(
        self, response: Response, endpoint: EndpointState, work: ChunkTask, error: InvalidResponse | None = None
    ) -> Verdict:
        assert work.payload is not None
        with calling("the codec's classify"):
            meaning = self._codec.classify(response)
        try:
            if isinstance(meaning, Verdict):
                verdict = replace(meaning, about_rows=meaning.action is Action.FAIL)
            elif meaning is None and error is not None:
                verdict = classify_invalid(response, error, quotes=work.payload.holds)
            else:
                verdict = classify_response(response, meaning=meaning, quotes=work.payload.holds)
        except Exception as problem:  # noqa: BLE001 - no text of a server ends a run, whatever it makes a parser raise
            reason = (
                f"HTTP {response.status}: the answer cannot be read ({type(problem).__name__}): {response.excerpt()}"
            )
            verdict = classify_error(InvalidResponse(reason), response.status)
        address = endpoint.transport.redactor.url
        return with_address(self._shown(verdict), response.url or endpoint.transport.url, self._codec.path, address)

    def _shown(self, verdict: Verdict) -> Verdict:
        told = self._group.balancer.conceal(shortened(verdict.reason, _LOOKED_AT))[:_LONGEST_REASON]
        return verdict if told == verdict.reason else replace(verdict, reason=told)

    def _decoded(
        self, response: Response, work: ChunkTask, endpoint: EndpointState, sent: float, aside: Decoded | None = None
    ) -> Array | Values:
        try:
            decoded = self._codec.decode(response, work.n) if aside is None else aside.decoded.get()
            if not isinstance(decoded, DecodedResponse):
                return decoded
            self._account(work, decoded.usage)
            balancer = self._group.balancer
            if decoded.model is not None and (balancer.only is None or endpoint.transport.model is not None):
                balancer.model_names.check(endpoint, decoded.model, sent, self._dispatcher.now())
            return decoded.values
        except InvalidResponse as error:
            self._account(work, error.usage)
            raise
        except Exception as error:  # noqa: BLE001 - a short codec does not foresee every answer
            what = f"{type(error).__name__}: {error}"
            raise InvalidResponse(f"the answer cannot be decoded ({what}): {response.excerpt()}") from None
        except BaseException as error:
            raise abnormal("the codec's decode", error) from error

    def _account(self, work: ChunkTask, usage: Mapping[str, int]) -> None:
        self._counters.charge(usage)
        self._group.account(work, usage, self._dispatcher.now())


def _unchecked(error: Exception) -> InvalidResponse:
    return InvalidResponse(f"the answer cannot be checked ({type(error).__name__}: {error})")
