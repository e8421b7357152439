"""One attempt: send a task's payload, then decode, validate or classify the response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fanout._escape import shortened
from fanout.callbacks import abnormal, calling
from fanout.classify import classify_error, classify_invalid, classify_response, with_address
from fanout.engine.lengths import Lengths
from fanout.errors import CallbackError, InvalidResponse
from fanout.stop import Stop
from fanout.transport import credentials_refused
from fanout.types import Action, Array, DecodedResponse, Response, Values, Verdict, schema_of
from fanout.upstream.billing import BilledTicket

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.hedging import HedgedRequests
    from fanout.engine.validator import Decoded, ResponseValidator
    from fanout.statistics import Counters
    from fanout.upstream.admission import Dispatcher, Exchanged, Ticket
    from fanout.upstream.group import EndpointGroup, EndpointState

# As many times ``max_attempts`` a full endpoint may refuse a chunk at no charge: some answer 503 to rows that crash
# them.
_PATIENCE = 3

# Characters of a reason. It may repeat anything that a server says.
_LONGEST_REASON = 2000
_SEARCHED_FOR_SECRETS = 2 * _LONGEST_REASON

Outcome: TypeAlias = dict[str, Array] | Verdict
"""Valid outputs by name, or the verdict on a failure."""


class Attempter:
    """Makes the attempts of one run.

    Args:
        stop: stops the run. It is called before anything is awaited, so that no other request slips out.
        independent: the answers of rows may differ in length.
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
        independent: bool = False,
    ) -> None:
        self._codec = codec
        self._group = group
        self._dispatcher = dispatcher
        self._validator = validator
        self._counters = counters
        self._stop = stop
        self._lengths = Lengths(codec.if_lengths_differ) if validator.learns_shapes and not independent else None
        self._answers = 0
        self._hedging: HedgedRequests | None = None
        if group.hedger is not None:
            from fanout.engine.hedging import HedgedRequests  # few clients hedge

            self._hedging = HedgedRequests(group, dispatcher, counters)

    def conceal(self, text: str) -> str:
        """Return ``text`` on one line, without secrets."""
        return self._group.balancer.conceal(text)

    def ticket(self) -> Ticket:
        """Make a ticket for the attempts of the current asyncio task, which has to call its `close` at the end."""
        return self._dispatcher.ticket()

    def misfit(self, task: ChunkTask, verdict: Verdict) -> None:
        """Count an answer that turned out to be unlike the others against its endpoint."""
        if task.endpoint is not None:
            self._dispatcher.reporter.on_misfit(task.endpoint, verdict)

    async def run(self, task: ChunkTask, ticket: Ticket) -> Outcome:
        """Send an encoded task once, hedged if the settings say so, and return its outputs or the verdict."""
        if task.sent:
            self._counters.retries += 1
            # Whether others were answered since decides later who is to blame for a failure.
            task.history.proofs.on_repetition(self._group.answered.sent_at)
        task.sent += 1
        if self._hedging is None:
            outcome = await self._attempt(task, ticket)
        else:
            outcome, ticket = await self._hedging.run(self._attempt, task)
        task.endpoint = ticket.endpoint
        if not isinstance(outcome, Verdict):
            answered = self._group.answered
            answered.chunks += 1
            if ticket.sent_at is not None and ticket.sent_at > answered.sent_at:
                answered.sent_at = ticket.sent_at
            return outcome
        others_succeed = task.history.note_failure(outcome, self._group.answered.chunks)
        if outcome.reask is not None:
            task.payload = outcome.reask
            task.history.reasks += 1
        full = others_succeed and outcome.no_room and self._may_refuse_again(task)
        # The endpoint is to blame, so that the rows keep the attempt.
        if full or ticket.refund:
            task.charged -= 1
        return outcome

    async def _attempt(self, task: ChunkTask, ticket: Ticket, only: EndpointState | None = None) -> Outcome:
        """One attempt, reported by its ticket. ``only`` is the one endpoint that will do."""
        async with ticket:
            response = await self._dispatcher.exchange(ticket, task, only)
            decoded = None
            if isinstance(response, Response) and len(response.body) > self._codec.most_bytes_on_loop:
                decoded = await self._decode_aside(response, task, ticket)
            outcome = self._judge(response, task, ticket, decoded)
            # Some servers refuse credentials with status 200, which only the codec could see.
            if isinstance(outcome, Verdict) and self._may_renew_headers(response, outcome, ticket):
                assert isinstance(response, Response)
                assert outcome.status is not None
                response = await self._dispatcher.exchange_again(ticket, task, response, outcome.status)
                outcome = self._judge(response, task, ticket)
            verdict = ticket.report(outcome, task, first=task.sent == 1)
            return outcome if verdict is None else self._acted_on(verdict)

    def _acted_on(self, verdict: Verdict) -> Verdict:
        """``verdict``, after the run has been stopped if it says so."""
        if verdict.action is Action.STOP:
            self._stop(Stop(verdict.stop, verdict.reason))
        return verdict

    def _may_refuse_again(self, task: ChunkTask) -> bool:
        """False once a full endpoint has refused a chunk so often that its rows are as suspect as the endpoint."""
        return task.attempts - task.charged < _PATIENCE * self._group.retry.max_attempts

    @staticmethod
    def _may_renew_headers(response: Exchanged, verdict: Verdict, ticket: Ticket) -> bool:
        """True if a response with status 200 says that the credentials are refused, and new ones can be obtained."""
        if not isinstance(response, Response) or not 200 <= response.status < 300 or verdict.status not in (401, 403):
            return False
        assert ticket.endpoint is not None
        can_renew = ticket.endpoint.transport.can_renew_headers
        return can_renew and credentials_refused(verdict.status, response.headers, response.body)

    async def _decode_aside(self, response: Response, task: ChunkTask, ticket: Ticket) -> Decoded | None:
        """Decode a large response on the helper thread. None for one that is no success, or needs no effort."""
        if not 200 <= response.status < 300 or self._codec.decodes_at_once(response):
            return None
        ticket.return_slot()  # others may be in flight meanwhile
        return await self._group.decoder.decode(self._codec, response, task.n, self._validator)

    def _judge(self, response: Exchanged, task: ChunkTask, ticket: Ticket, aside: Decoded | None = None) -> Outcome:
        """The outputs in ``response``, or the verdict on it. ``aside`` holds the response if it is decoded already."""
        if not isinstance(response, Response):
            return response if isinstance(response, Verdict) else self._concealed(classify_error(response))
        if not 200 <= response.status < 300:
            return self._classify(response, task, ticket)
        values: Array | Values | None = None
        try:
            decoded = self._codec.decode(response, task.n) if aside is None else aside.decoded()
            values = self._unpack(decoded, task, ticket) if isinstance(decoded, DecodedResponse) else decoded
            if aside is None or aside.schema is not self._validator.schema:
                outputs = self._validator.validate(values, task.n)
            else:
                outputs = aside.validated()
        except Exception as error:  # noqa: BLE001 - values of any kind, and too many for the memory that there is
            return self._judge_invalid(error, values, response, task, ticket)
        except BaseException as error:
            raise abnormal("the codec's decode", error) from error
        if not self._validator.settled and (stop := self._stop_for_lengths(task, outputs)) is not None:
            return stop
        self._answers += 1
        return outputs

    def _unpack(self, decoded: DecodedResponse, task: ChunkTask, ticket: Ticket) -> Array | Values:
        """The values of a response that also reports its usage, or the name of its model."""
        self._charge(task, decoded.usage, ticket)
        if decoded.model is not None:
            assert ticket.endpoint is not None
            assert ticket.sent_at is not None
            names = self._group.balancer.model_names
            names.check(ticket.endpoint, decoded.model, ticket.sent_at, self._dispatcher.now())
        return decoded.values

    def _judge_invalid(
        self, error: Exception, values: Array | Values | None, response: Response, task: ChunkTask, ticket: Ticket
    ) -> Verdict:
        """The verdict on a response that could not be decoded (``values`` is None), or whose values are invalid."""
        if isinstance(error, CallbackError):
            raise error
        if not isinstance(error, InvalidResponse):  # a short codec does not foresee every response
            reason = f"{type(error).__name__}: {error}"
            if values is None:
                error = InvalidResponse(f"the answer cannot be decoded ({reason}): {response.excerpt()}")
            else:
                error = InvalidResponse(f"the answer cannot be checked ({reason})")
        elif values is None:
            self._charge(task, error.usage, ticket)
        # Before the retry: the same request would only show the same lengths again.
        if (stop := self._stop_for_lengths(task, {} if values is None else values, error)) is not None:
            return stop
        if error.rows:
            error = InvalidResponse(task.in_input(str(error), error.rows), error_kind=error.error_kind, rows=error.rows)
        if error.answer is None:
            return self._classify(response, task, ticket, error)
        described = InvalidResponse(f"{error}: {error.answer}", error_kind=error.error_kind)
        verdict = self._classify(response, task, ticket, described)
        # The body may hold an error of the server instead, or the codec may know that the rows will never be answered.
        return verdict if verdict.error_kind is None else self._about_answer(verdict, error, response, task, ticket)

    def _about_answer(
        self, verdict: Verdict, error: InvalidResponse, response: Response, task: ChunkTask, ticket: Ticket
    ) -> Verdict:
        """The verdict on a response with the invalid answer of a model: its rows are asked for again, or fail."""
        verdict = replace(verdict, about_rows=True, without_values=False)
        if task.history.reasks >= self._codec.reasks:
            task.history.confirmed = True
            return replace(verdict, action=Action.SPLIT)
        assert task.payload is not None
        assert ticket.endpoint is not None
        with calling("the codec's reask"):
            payload = self._codec.reask(task.payload, response, error)
        transport = ticket.endpoint.transport
        # Another body under the same idempotency key would get the answer to the first.
        return replace(verdict, reask=transport.stamped(payload) if transport.stamps else payload)

    def _charge(self, task: ChunkTask, usage: Mapping[str, int], ticket: Ticket) -> None:
        if isinstance(ticket, BilledTicket):
            ticket.charge(usage)
        task.usage = usage
        self._counters.charge(usage)
        self._group.costs.charge(task, usage, self._dispatcher.now())

    def _stop_for_lengths(
        self, task: ChunkTask, outputs: Array | Values, error: InvalidResponse | None = None
    ) -> Verdict | None:
        """The verdict that stops the run, once it is certain that the answers of rows differ in length."""
        if self._lengths is None or (error is not None and error.error_kind != "shape"):
            return None
        if error is not None and error.lengths:
            reason = self._lengths.differ_within(task.chunk, error.lengths)
        else:
            if self._group.balancer.several:  # an endpoint with another model deviates, not its rows
                return None
            named = outputs if isinstance(outputs, Mapping) else {"": outputs}
            if not (named and all(isinstance(array, np.ndarray) for array in named.values())):
                return None
            reason = self._lengths.differ_between(
                task.chunk, schema_of(named) or {}, self._validator.schema, self._answers
            )
        if reason is None:
            return None
        return Verdict(action=Action.STOP, stop="rejected", reason=reason, error_kind="shape")

    def _classify(
        self, response: Response, task: ChunkTask, ticket: Ticket, error: InvalidResponse | None = None
    ) -> Verdict:
        """The verdict on a response with an error status, or on an invalid one with its ``error``."""
        assert task.payload is not None
        assert ticket.endpoint is not None
        transport = ticket.endpoint.transport
        with calling("the codec's classify"):
            meaning = self._codec.classify(response)
        try:
            if isinstance(meaning, Verdict):
                verdict = self._completed(meaning, response, task)
            elif meaning is None and error is not None:
                verdict = classify_invalid(response, error, quotes=task.payload.holds)
            else:
                verdict = classify_response(response, meaning=meaning, quotes=task.payload.holds)
        except Exception as problem:  # noqa: BLE001 - no text of a server ends a run, whatever it makes a parser raise
            reason = f"HTTP {response.status}: the answer cannot be read ({type(problem).__name__})"
            verdict = classify_error(InvalidResponse(f"{reason}: {response.excerpt()}"), response.status)
        url = response.url or transport.url
        verdict = with_address(self._concealed(verdict), url, self._codec.path, transport.shown)
        # Once rows were answered, the encoding of bodies is not to blame.
        if not ticket.endpoint.served:
            verdict = transport.with_remedy(verdict, task.payload)
        if verdict.status == 403 and verdict.action is Action.STOP and verdict.stop == "refused":
            expired = credentials_refused(403, response.headers, response.body)
            if not expired and self._rows_may_be_forbidden(ticket.endpoint, task):
                return replace(verdict, action=Action.SPLIT)
        return verdict

    @staticmethod
    def _completed(meaning: Verdict, response: Response, task: ChunkTask) -> Verdict:
        """A codec's verdict, with the server's message and wait where it has no reason of its own."""
        assert task.payload is not None
        if not meaning.reason:
            general = classify_response(response, quotes=task.payload.holds)
            stop = meaning.stop if meaning.action is Action.STOP else general.stop
            meaning = replace(
                general, action=meaning.action, status=meaning.status, stop=stop, about_rows=meaning.about_rows
            )
        if meaning.action is not Action.FAIL:
            return meaning
        # One row of several may be refused, and then fails alone.
        splits = meaning.about_rows and task.n > 1
        return replace(meaning, about_rows=True, action=Action.SPLIT if splits else Action.FAIL)

    def _rows_may_be_forbidden(self, endpoint: EndpointState, task: ChunkTask) -> bool:
        """True if a 403 may be that of a moderator or a firewall, which refuse single rows.

        Smaller requests show it, so the rows are suspected first. Where other endpoints can do the work, one that has
        served nothing, or that forbids several chunks in a row, is to blame itself.
        """
        if not self._group.balancer.has_alternative(endpoint):
            return True
        return not endpoint.health.on_forbidden(task.chunk.start) and endpoint.served

    def _concealed(self, verdict: Verdict) -> Verdict:
        reason = self._group.balancer.conceal(shortened(verdict.reason, _SEARCHED_FOR_SECRETS))[:_LONGEST_REASON]
        return verdict if reason == verdict.reason else replace(verdict, reason=reason)
