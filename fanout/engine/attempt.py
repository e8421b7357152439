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

    def __init__(self, reply: Response, host: EndpointState, status: int) -> None:
        super().__init__(status)
        self.reply = reply
        self.host = host
        self.status = status


class Attempts:
    """Makes attempts for the works of one run.

    Args:
        stop: stops the run; called before anything is awaited, so that no other request slips out.
        independent: answers of rows may differ in length.
        owner: by which connections remember whose rows were answered over them. It refers to nothing.
    """

    def __init__(
        self,
        codec: Codec,
        link: EndpointGroup,
        exchanges: Dispatcher,
        proof: ResponseValidator,
        counters: Counters,
        *,
        stop: Callable[[Stop], None],
        owner: object,
        independent: bool = False,
    ) -> None:
        self._owner = owner
        self._codec = codec
        self._link = link
        self._exchanges = exchanges
        self._proof = proof
        self._counters = counters
        self._stop = stop
        self.ended = WaitQueue()
        """Rings when an attempt has failed, for those who wait until others in flight have shown what is wrong."""

        self._lengths = Lengths(codec.if_lengths_differ) if proof.learns_shapes and not independent else None
        self._answers = 0
        self._races = None if link.hedger is None else HedgedRequests(link.hedger, link, exchanges, counters)

    async def make(self, work: ChunkTask, deadline: Deadline) -> Outcome:
        """Send an encoded work once and judge what comes."""
        payload = work.payload
        assert payload is not None
        if work.tries:
            self._counters.retries += 1
        work.tries += 1
        work.attempts += 1
        rows = self._owner, work.chunk.start, work.chunk.stop
        send: Send = lambda host, fresh: host.transport.post(payload, fresh=fresh, rows=rows)  # noqa: E731 - hot
        if self._races is None:
            outcome, host = await self._judged_exchange(work, send, deadline)
        else:
            attempt = partial(self._judged_exchange, work)
            (outcome, host), deadline = await self._races.run(attempt, send)
        work.host = host
        if not isinstance(outcome, Verdict):
            self._link.successes += 1
            assert host is not None
            host.served = True
            if host.forbidden:
                host.forbidden.clear()
            self._exchanges.succeeded(host, deadline, first_try=work.tries == 1)
            return outcome
        others_served = work.fails_alone(self._link.successes)
        verdict = work.in_context(outcome)
        of_endpoint = self._exchanges.failed(
            host,
            verdict,
            deadline,
            alone=others_served and verdict.rows_suspect,
            last=not others_served and work.attempts >= self._link.retry.max_attempts > 1,
        )
        # A row that fails while those beside it are answered comes to an end, even if it is all that is sent.
        if (of_endpoint and not work.confirmed) or (others_served and verdict.no_room and self._patient_with(work)):
            work.uncharge()
        self.ended.ring()
        return verdict

    async def _judged_exchange(
        self, work: ChunkTask, send: Send, deadline: Deadline, only: EndpointState | None = None
    ) -> tuple[Outcome, EndpointState | None]:
        try:
            exchanged, host = await self._exchanges.make(send, deadline, work, only)
            aside = None
            if isinstance(exchanged, Response) and len(exchanged.body) > self._codec.most_bytes_on_loop:
                aside = await self._decoded_aside(exchanged, work)
            try:
                outcome = self._judged(exchanged, host, work, deadline.started, aside)
            except _HeadersRefused as refused:
                outcome, host = await self._with_new_headers(work, send, deadline, refused)
            if isinstance(outcome, Verdict) and outcome.action is Action.STOP:
                self._stop(Stop(outcome.stop, outcome.reason))
            return outcome, host
        except BaseException:
            self._exchanges.abandon(deadline)
            raise

    async def _with_new_headers(
        self, work: ChunkTask, send: Send, deadline: Deadline, refused: _HeadersRefused
    ) -> tuple[Outcome, EndpointState | None]:
        """Send once more, with new headers, what an answer with status 200 refused for its credentials."""
        exchanged: Exchanged = refused.reply
        host: EndpointState | None = refused.host
        renewed = await self._exchanges.renewed(refused.host, refused.status, deadline)
        if renewed is True:
            exchanged, host = await self._exchanges.make(send, deadline, work, refused.host)
        elif renewed:
            exchanged = renewed
        return self._judged(exchanged, host, work, deadline.started, renewed=True), host

    def _patient_with(self, work: ChunkTask) -> bool:
        """False once a chunk has come back so often that its rows are as suspect as the endpoint."""
        return work.earlier_attempts < _PATIENCE * self._link.retry.max_attempts

    async def _decoded_aside(self, reply: Response, work: ChunkTask) -> Decoded | None:
        """Decode a large answer on the helper thread. None for one that is no success, or decoded without effort."""
        if not 200 <= reply.status < 300 or self._codec.decodes_at_once(reply):
            return None
        return await self._link.decoding.decode(self._codec, reply, work.n, self._proof)

    def _judged(
        self,
        exchanged: Exchanged,
        host: EndpointState | None,
        work: ChunkTask,
        sent: float,
        aside: Decoded | None = None,
        *,
        renewed: bool = False,
    ) -> Outcome:
        if not isinstance(exchanged, Response):
            return exchanged if isinstance(exchanged, Verdict) else self._shown(classify_error(exchanged))
        assert host is not None
        if not 200 <= exchanged.status < 300:
            return self._weighed(exchanged, self._classified(exchanged, host, work), host, work)
        decoded: Array | Values = {}
        try:
            decoded = self._decoded(exchanged, work, host, sent, aside)
            checked = self._proof.checked(decoded, work.n) if aside is None else self._checked(decoded, work, aside)
        except CallbackError:
            raise
        except Exception as problem:  # noqa: BLE001 - values of any kind, and too many for the memory that there is
            error = problem if isinstance(problem, InvalidResponse) else _unchecked(problem)
            if (stop := self._stop_for_lengths(work, decoded, error)) is not None:
                return stop
            if error.rows:
                error = InvalidResponse(work.in_input(str(error), error.rows), error_kind=error.error_kind)
            verdict = self._classified(exchanged, host, work, error)
            status = verdict.status if host.transport.can_renew_headers and not renewed else None
            if status in (401, 403) and credentials_refused(status, exchanged.headers, exchanged.body):
                raise _HeadersRefused(exchanged, host, status) from None
            return self._weighed(exchanged, verdict, host, work)
        if not self._proof.settled and (stop := self._stop_for_lengths(work, checked)) is not None:
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
            if self._link.pool.only is None:  # an endpoint with another model is out of step, not its rows
                return None
            named = outputs if isinstance(outputs, Mapping) else {"": outputs}
            if not (named and all(isinstance(array, np.ndarray) for array in named.values())):
                return None
            why = self._lengths.differ_between(work.chunk, schema_of(named) or {}, self._proof.form, self._answers)
        return None if why is None else Verdict(action=Action.STOP, stop="rejected", reason=why, error_kind="shape")

    def _checked(self, values: Array | Values, work: ChunkTask, aside: Decoded) -> dict[str, Array]:
        """The outputs of an answer that was decoded aside, where it has been checked too, and against today's form."""
        if aside.checked is not None and aside.form is self._proof.form:
            return aside.checked.get()
        return self._proof.checked(values, work.n)

    def _weighed(self, reply: Response, verdict: Verdict, host: EndpointState, work: ChunkTask) -> Verdict:
        """What ``verdict`` means for the endpoint, once it is clear that its rows are not to blame for a 403."""
        if verdict.status == 403 and verdict.action is Action.STOP and verdict.stop == "refused":
            expired = credentials_refused(403, reply.headers, reply.body)
            if not expired and self._rows_may_be_forbidden(host, work):
                return replace(verdict, action=Action.SPLIT)
        return self._exchanges.pause(host, verdict)

    def _rows_may_be_forbidden(self, host: EndpointState, work: ChunkTask) -> bool:
        """True where a 403 may be that of a moderator or a firewall, which refuse single rows.

        To send smaller requests shows it, so the rows come under suspicion first. Where other endpoints can do the
        work, one that has served nothing, or that forbids several chunks in a row, is to blame itself.
        """
        if self._link.pool.only is not None or not self._link.pool.dispensable(host):
            return True
        host.forbidden.add(work.chunk.start)
        return host.served and len(host.forbidden) < _NO_ACCIDENT

    def _classified(
        self, reply: Response, host: EndpointState, work: ChunkTask, error: InvalidResponse | None = None
    ) -> Verdict:
        assert work.payload is not None
        with calling("the codec's classify"):
            meaning = self._codec.classify(reply)
        try:
            if isinstance(meaning, Verdict):
                verdict = replace(meaning, about_rows=meaning.action is Action.FAIL)
            elif meaning is None and error is not None:
                verdict = classify_invalid(reply, error, quotes=work.payload.holds)
            else:
                verdict = classify_response(reply, meaning=meaning, quotes=work.payload.holds)
        except Exception as problem:  # noqa: BLE001 - no text of a server ends a run, whatever it makes a parser raise
            reason = f"HTTP {reply.status}: the answer cannot be read ({type(problem).__name__}): {reply.excerpt()}"
            verdict = classify_error(InvalidResponse(reason), reply.status)
        address = host.transport.redactor.url
        return with_address(self._shown(verdict), reply.url or host.transport.url, self._codec.path, address)

    def _shown(self, verdict: Verdict) -> Verdict:
        told = self._link.pool.conceal(shortened(verdict.reason, _LOOKED_AT))[:_LONGEST_REASON]
        return verdict if told == verdict.reason else replace(verdict, reason=told)

    def _decoded(
        self, reply: Response, work: ChunkTask, host: EndpointState, sent: float, aside: Decoded | None = None
    ) -> Array | Values:
        try:
            decoded = self._codec.decode(reply, work.n) if aside is None else aside.decoded.get()
            if not isinstance(decoded, DecodedResponse):
                return decoded
            self._account(work, decoded.usage)
            pool = self._link.pool
            if decoded.model is not None and (pool.only is None or host.transport.model is not None):
                pool.model_names.check(host, decoded.model, sent, self._exchanges.now())
            return decoded.values
        except InvalidResponse as error:
            self._account(work, error.usage)
            raise
        except Exception as error:  # noqa: BLE001 - a short codec does not foresee every answer
            what = f"{type(error).__name__}: {error}"
            raise InvalidResponse(f"the answer cannot be decoded ({what}): {reply.excerpt()}") from None
        except BaseException as error:
            raise abnormal("the codec's decode", error) from error

    def _account(self, work: ChunkTask, usage: Mapping[str, int]) -> None:
        self._counters.charge(usage)
        self._link.account(work, usage, self._exchanges.now())


def _unchecked(error: Exception) -> InvalidResponse:
    return InvalidResponse(f"the answer cannot be checked ({type(error).__name__}: {error})")
