"""Attempts at an asynchronous API: one POST, then GETs until the job that it started has ended.

The POST is not repeated while its job may still give the answers. The GETs are admitted as all requests are, so that
they share rates, cooldown and circuit breaker; between two of them the ticket holds no slot, and others are sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import uniform
from typing import TYPE_CHECKING, Any, Protocol

from fanout.callbacks import calling
from fanout.classify import classify_error, classify_response, pushback
from fanout.engine.attempt import Attempter
from fanout.errors import InvalidResponse
from fanout.stop import STOOD_STILL
from fanout.types import Action, Response, Verdict
from fanout.upstream.billing import BilledTicket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.codecs._polling import Polling
    from fanout.engine.attempt import Outcome
    from fanout.engine.chunker import ChunkTask
    from fanout.stop import Stop, StopEvent
    from fanout.types import Rows
    from fanout.upstream.admission import Exchanged, Ticket
    from fanout.upstream.group import EndpointState

# Seconds of the longest wait that grows with the failures of the GETs, and between two signs of life.
_LONGEST_WAIT = 30.0
_MOST_DOUBLINGS = 5
_ACCEPTED = (201, 202)
# If so many jobs have exceeded their time, and none has ended, the next ones would be paid for in vain too.
_MOST_WITHOUT_END = 20


class JobRecords(Protocol):
    """Records the jobs of a run, so that a process which resumes it goes on waiting for them."""

    async def record(self, start: int, stop: int, rows: Rows, url: str) -> Stop | None:
        """Record the URL of the job for some rows, durably. Returns a stop if that fails."""
        ...

    async def take(self, start: int, stop: int, rows: Rows) -> str | None:
        """The URL of the job that an earlier process has started for exactly these rows, once."""
        ...


@dataclass(slots=True)
class Job:
    """Work that a server does for some rows.

    Attributes:
        url: where its state, or its result, is.
        endpoint: the endpoint that accepted it.
        has_ended: what is at the URL is the result itself.
        wait: seconds for which the server wants no GET.
        recorded_url: where its state is, for the journal; None if it has no such URL.
    """

    url: str
    endpoint: EndpointState
    has_ended: bool = False
    wait: float = 0.0
    recorded_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollHooks:
    """The parts of a run that take part in polling.

    Attributes:
        stop_event: ends every wait.
        awaiting: called with the number of jobs that are awaited, when it changes.
        progress: called for each sign of life of a job.
        records: None without a journal.
    """

    stop_event: StopEvent
    awaiting: Callable[[int], None]
    progress: Callable[[], None]
    records: JobRecords | None


class PollingAttempter(Attempter):
    """Makes attempts that consist of several requests. Hedging would start a second job, so there is none."""

    def __init__(self, *args: Any, polling: Polling, hooks: PollHooks, **options: Any) -> None:
        super().__init__(*args, **options)
        self._polling = polling
        self._hooks = hooks
        self._hedging = None
        self._n_awaited = self._n_overdue = 0
        self._any_ended = False
        self._usage_of_states: dict[ChunkTask, Mapping[str, int]] = {}

    async def _attempt(self, task: ChunkTask, ticket: Ticket, only: EndpointState | None = None) -> Outcome:
        try:
            job = await self._earlier_job(task) or await self._start(task, ticket, only)
            if not isinstance(job, Job):
                return job
            self._count(1)
            try:
                return await self._follow(job, task, ticket)
            finally:
                self._count(-1)
        finally:
            self._usage_of_states.pop(task, None)
            # Also if the job is given up: the server may bill it all the same.
            if isinstance(ticket, BilledTicket):
                ticket.settle()

    def _count(self, change: int) -> None:
        self._n_awaited += change
        self._hooks.awaiting(self._n_awaited)

    async def _earlier_job(self, task: ChunkTask) -> Job | None:
        """The job that a process which has ended has started for these rows."""
        if self._hooks.records is None or task.sent > 1 or not _is_recorded(task):
            return None
        url = await self._hooks.records.take(task.first_row, task.first_row + task.n, task.rows)
        if url is None:
            return None
        # An endpoint that gets no rows yet may be asked for a job all the same: a new one would be paid again.
        able = [one for one in self._group.balancer.endpoints if one.excluded is None and one.transport.may_get(url)]
        return Job(url, max(able, key=lambda endpoint: endpoint.is_candidate)) if able else None

    async def _start(self, task: ChunkTask, ticket: Ticket, only: EndpointState | None) -> Job | Outcome:
        """Send the rows. Returns their job; or the outcome, if the server has answered or refused at once."""
        async with ticket:
            response = await self._dispatcher.exchange(ticket, task, only)
            started = self._started(response, task, ticket)
            if started is None:
                started = self._judge(response, task, ticket)
            if not isinstance(started, Job):
                return self._reported(started, task, ticket)
            # The job costs what its result says.
            if isinstance(ticket, BilledTicket):
                ticket.keep()
            ticket.report(started, task, first=task.sent == 1)
        # The record is durable before the first GET: after a kill, the same job is awaited rather than paid for twice.
        await self._record(started, task)
        return started

    async def _record(self, job: Job, task: ChunkTask) -> None:
        records = self._hooks.records
        if records is None or job.recorded_url is None or not _is_recorded(task):
            return
        start, stop_row = task.first_row, task.first_row + task.n
        if (stop := await records.record(start, stop_row, task.rows, job.recorded_url)) is not None:
            self._stop(stop)

    def _started(self, response: Exchanged, task: ChunkTask, ticket: Ticket) -> Job | Outcome | None:
        """The job in a response to rows, or its outcome if it has ended; None for a response that has no job."""
        if not isinstance(response, Response) or not 200 <= response.status < 300:
            return None
        assert ticket.endpoint is not None
        url = self._polling.url(response, response.url or ticket.endpoint.transport.url)
        if self._polling.is_done(response):
            started = self._ended(response, task, ticket)
        elif url is not None:
            started = self._job(url, ticket.endpoint, wait=_wait_stated(response))
        else:
            return self._lost_at_start(response)
        if isinstance(started, Job):
            # The result may be at a URL of its own, but what is asked again after a kill is the state.
            started.recorded_url = url
        return started

    def _lost_at_start(self, response: Response) -> Verdict | None:
        """The stop for a response that accepts rows but has no job; None for any other response."""
        if response.status not in _ACCEPTED:
            return None
        reason = (
            f"HTTP {response.status}: the response has no URL at codec.poll.url = {self._polling.shown_url!r}: "
            f"{response.excerpt()}"
        )
        # Each attempt would start another job that cannot be found.
        return self._concealed(Verdict(action=Action.STOP, reason=reason, status=response.status, stop="rejected"))

    def _job(self, url: str, endpoint: EndpointState, *, wait: float, has_ended: bool = False) -> Job | Verdict:
        if endpoint.transport.may_get(url):
            return Job(url, endpoint, has_ended, wait)
        shown = endpoint.transport.shown(url)
        reason = (
            f"the server names {shown} as the URL of a job, which is not at the endpoint's origin; if that is right, "
            "add its origin to codec.poll.origins (no credentials are sent there)"
        )
        return Verdict(action=Action.STOP, reason=reason, stop="redirect")

    async def _follow(self, job: Job, task: ChunkTask, ticket: Ticket) -> Outcome:
        """Ask for the state of ``job`` until it has ended."""
        now, polling = self._dispatcher.now, self._polling
        ends, failures, refusals, wait, words = now() + polling.timeout, 0, 0, max(polling.every, job.wait), ""
        asks_late = False
        while True:
            # A wait beyond the end of the job's time is not cut short: no GET may come before the server wants it.
            await self._pause(min(wait, ends - now()), is_alive=not failures)
            if now() >= ends:
                if asks_late or now() - ends <= STOOD_STILL:
                    return self._overdue(words)
                # The process was stopped meanwhile: one more GET shows whether the job has ended, which is paid for.
                asks_late = True
                await self._pause(wait, is_alive=not failures)
            # Between two GETs the slot is free for others: a job may take minutes.
            async with ticket:
                response = await self._dispatcher.exchange(ticket, job.url, job.endpoint)
                if isinstance(response, Verdict):  # the run was stopped
                    return self._reported(response, task, ticket)
                verdict = self._objection(response, job, ticket)
                if verdict is None:
                    assert isinstance(response, Response)
                    step = self._step(response, job, task, ticket)
                    if step is not None and not isinstance(step, Job):
                        return self._reported(step, task, ticket)
                    # A state is a sign that the endpoint works, although the rows have no outcome yet.
                    ticket.report(response, first=True)
                    self._hooks.progress()
                    failures = refusals = 0
                    words = f"; the last state: {response.excerpt()}"
                    wait = max(polling.every, _wait_stated(response)) if step is None else step.wait
                    job = step or job
                    continue
                failures += 1
                reported = ticket.report(verdict, first=failures == 1) or verdict
            if reported.action is Action.STOP:
                return self._acted_on(reported)
            words = f"; the last failure: {verdict.reason}"
            # Only refusals with no state in between end the job: an endpoint in trouble may answer again.
            refusals += verdict.action is Action.FAIL
            if refusals >= self._group.retry.max_attempts:
                return _lost(f"the job is lost: {verdict.reason}")
            # Jittered, so that many jobs that failed together do not ask together.
            wait = uniform(0.5, 1.0) * min(_LONGEST_WAIT, polling.every * 2 ** min(failures, _MOST_DOUBLINGS))

    async def _pause(self, seconds: float, *, is_alive: bool) -> None:
        """Wait, or until the run is stopped. As long as the server answers, a wait that was asked for is no stall."""
        now, stop_event = self._dispatcher.now, self._hooks.stop_event
        until = now() + seconds
        while (left := until - now()) > 0 and stop_event.stopped is None:
            await stop_event.sleep(min(left, _LONGEST_WAIT))
            if is_alive:
                self._hooks.progress()

    def _overdue(self, words: str) -> Verdict:
        """The verdict on a job that exceeds its time. It stops the run if ``until`` may be wrong."""
        self._n_overdue += 1
        reason = f"the job has no result within codec.poll.timeout = {self._polling.timeout:g} s{words}"
        if self._any_ended or self._n_overdue < _MOST_WITHOUT_END:
            return self._concealed(_lost(reason))
        reason = f"none of {self._n_overdue} jobs has ended: correct codec.poll.until, or raise timeout: {reason}"
        return self._acted_on(self._concealed(Verdict(action=Action.STOP, reason=reason, stop="rejected")))

    def _objection(self, response: Response | Exception, job: Job, ticket: Ticket) -> Verdict | None:
        """The verdict on a response that says nothing about the job; None for one that does."""
        if not isinstance(response, Response):
            verdict = classify_error(response)  # type: ignore[arg-type]
            # A kept connection that was closed is no failure of the job, and nothing has to be sent again at once.
            return self._concealed(verdict)
        if 200 <= response.status < 300:
            if job.has_ended or self._polling.is_done(response) is not None:
                return None
            error = InvalidResponse(f"HTTP {response.status}: the state of the job is not JSON: {response.excerpt()}")
            return self._concealed(Verdict(action=Action.FAIL, reason=str(error), status=response.status))
        verdict = self._concealed(classify_response(response))
        gone = verdict.action is Action.STOP and verdict.stop == "rejected"  # 404, 405, 410: this job is not there
        if gone or verdict.action is Action.SPLIT:
            return Verdict(action=Action.FAIL, reason=verdict.reason, status=verdict.status)
        return verdict

    def _step(self, response: Response, job: Job, task: ChunkTask, ticket: Ticket) -> Job | Outcome | None:
        """The outcome of the rows, or the job whose URL has the result; None if the job goes on."""
        if job.has_ended:
            return self._judge(response, task, ticket)
        return self._ended(response, task, ticket) if self._polling.is_done(response) else None

    def _ended(self, response: Response, task: ChunkTask, ticket: Ticket) -> Job | Outcome:
        """The outcome of a job that has ended, or the job whose URL has the result."""
        assert ticket.endpoint is not None
        self._any_ended = True
        with calling("the codec's classify"):
            meaning = self._codec.classify(response)
        # A job that has ended may have failed, which only its codec knows.
        if meaning is not None:
            return self._classify(response, task, ticket)
        self._usage_of_states[task] = self._polling.usage(response)
        result = self._polling.result(response, response.url or ticket.endpoint.transport.url)
        if isinstance(result, str):
            return self._job(result, ticket.endpoint, wait=_wait_stated(response), has_ended=True)
        return self._judge(result, task, ticket)

    def _charge(self, task: ChunkTask, usage: Mapping[str, int], ticket: Ticket) -> None:
        super()._charge(task, {**self._usage_of_states.get(task, {}), **usage}, ticket)

    def _reported(self, outcome: Outcome, task: ChunkTask, ticket: Ticket) -> Outcome:
        verdict = ticket.report(outcome, task, first=task.sent == 1)
        return outcome if verdict is None else self._acted_on(verdict)


def _is_recorded(task: ChunkTask) -> bool:
    """True for an unbroken range of the input's rows. A control request has none of them."""
    return isinstance(task.where, slice) and not task.is_control


def _lost(reason: str) -> Verdict:
    # The job may have been paid for, so that the user alone decides about another one.
    return Verdict(action=Action.FAIL, reason=f"{reason}; fanout run --only-failed starts another one", about_rows=True)


def _wait_stated(response: Response) -> float:
    """Seconds for which the server wants no GET for this job; it may not mind those for others."""
    return pushback(response.headers, refused=False) or 0.0
