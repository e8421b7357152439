"""The client's side of shared limits: claims on starts, gathered into calls to the backend, and their answers.

A request makes a `Claim` and waits for its start. One call at a time is under way; it carries all claims that have come
meanwhile. If the backend is lost, no claim is granted until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from math import inf
from random import uniform
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol

from fanout._url import redact_url
from fanout.errors import ConfigError
from fanout.limits.rates import LATEST
from fanout.limits.shared import HORIZON, KEY, LIFETIME, BackendLostError, Call, Decided, Report
from fanout.limits.spending import Amount
from fanout.stop import Stop, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from fanout.limits.shared import Answer, LimitsBackend, Reply, Want
    from fanout.limits.spending import Account

_log = logging.getLogger("fanout")

# Permits are renewed several times within their life, so that one late call loses none.
_RENEWED_EVERY = LIFETIME / 4

# Most requests in one call: the backend serves no other client meanwhile.
_MOST_WANTS = 200

# Bounds of the wait before another try to connect.
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5

_OPENED_WITHIN = 10.0
_CLOSED_WITHIN = 1.0

_REFUSALS = {
    Decided.MAX_REQUESTS: Stop("max_requests", "all processes together have sent limits.max_requests requests"),
    Decided.BUDGET: Stop("cost", "all processes together have spent limits.max_cost or limits.max_tokens_total"),
}


class CooldownState(Protocol):
    """The cooldown of one endpoint, in times of the event loop."""

    until: float
    announce: Callable[[], None] | None
    """Called after the client itself has extended it."""


class Claim:
    """One request's claim on the limits: a start, once the backend has granted it, or the reason why there is none."""

    __slots__ = ("is_second", "not_before", "queue", "refused", "start", "urgent", "want")

    def __init__(self, want: Want, *, urgent: bool, is_second: bool = False) -> None:
        self.want = want
        self.urgent = urgent
        self.is_second = is_second
        """It replaces one that came too late."""

        self.queue = WaitQueue()
        """Notified of every change."""

        self.start: float | None = None
        """Time of the event loop at which the request may start; None before it is granted."""

        self.not_before = -inf
        """When to ask the backend again."""

        self.refused: Stop | None = None


class Ledger:
    """The claims of one client, and all that it has sent and spent."""

    def __init__(self) -> None:
        self.client = token_hex(8)
        self.waiting: dict[Claim, None] = {}
        """Not granted yet, in the order of asking."""

        self.unsent: dict[Claim, None] = {}
        """Granted; their requests are not sent yet."""

        self.in_flight = 0
        self.sent = 0
        self.charge = 0.0
        self.accounts: dict[Account, Amount] = {}
        """Account -> what it had spent before, in another process."""

    @property
    def held(self) -> int:
        """The number of permits."""
        return len(self.unsent) + self.in_flight

    def report(self) -> Report:
        """Return the state of the client for the backend."""
        spent, held = Amount(), Amount()
        for account, before in self.accounts.items():
            spent, held = spent.plus(account.spent).minus(before), held.plus(account.reserved)
        # An account also reserves the estimates of requests that wait here.
        for claim in self.waiting:
            held = held.minus(Amount(claim.want.price, claim.want.tokens))
        return Report(
            self.held, len(self.unsent), self.sent, spent.cost, spent.tokens, max(0.0, held.cost), max(0.0, held.tokens)
        )

    def ask_early(self) -> None:
        """Let the claim that has waited longest, an urgent one first, ask the backend with the next call."""
        if (claim := min(self.waiting, key=lambda claim: not claim.urgent, default=None)) is not None:
            claim.not_before = -inf

    def void(self) -> None:
        """Take back the starts that are not used yet: they have to be granted again."""
        self.waiting = {**self.unsent, **self.waiting}
        for claim in self.unsent:
            claim.start, claim.not_before = None, -inf
        self.unsent = {}


class SharedLimits:
    """The limits that one client shares with others.

    Args:
        backend: keeps them.
        cooldowns: those of the client's endpoints, by the digests of their URLs.
        longest: longest cooldown that a notice may start, in seconds.
    """

    def __init__(self, backend: LimitsBackend, cooldowns: Mapping[str, CooldownState], *, longest: float) -> None:
        self._backend = backend
        self._cooldowns = cooldowns
        self._longest = longest
        self._ledger = Ledger()
        self._work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = ""
        self._quiet_until = -inf
        self._others_wait = False
        self._closing = False
        self.lost = ""
        """The reason why the backend cannot be reached; empty if it can."""

    @property
    def needs_claims(self) -> bool:
        """False if only cooldowns are shared, so that requests start as without them."""
        return self._backend.bounds.has_limits

    async def open(self) -> None:
        """Connect to the backend. Raises `ConfigError` if it cannot be reached within 10 s, or refuses."""
        try:
            async with asyncio.timeout(_OPENED_WITHIN):
                await self._connect()
        except TimeoutError:
            problem = f"shared: no answer within {_OPENED_WITHIN:g} s from {redact_url(self._backend.url)}"
            raise ConfigError(f"{problem}: {self.lost}" if self.lost else problem, key=KEY) from None
        finally:
            if not self._state:
                await self._backend.close()
        self.lost = ""
        for endpoint, cooldown in self._cooldowns.items():
            cooldown.announce = partial(self._start, partial(self._announce, endpoint))
        self._start(self._serve)

    async def close(self) -> None:
        """Close the connections. Permits that are still held expire."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSED_WITHIN)
        if not self.lost:
            with suppress(TimeoutError, BackendLostError, ConfigError):
                async with asyncio.timeout(_CLOSED_WITHIN):
                    await self._reserve(())
        await self._backend.close()

    def claim(self, want: Want, *, urgent: bool = False, instead_of: Claim | None = None) -> Claim:
        """Ask for the start of one request, before those that are not urgent. `give_back` or `sent` has to follow.

        ``instead_of`` is the request's claim that came too late.
        """
        claim = Claim(want, urgent=urgent, is_second=instead_of is not None)
        self._ledger.waiting[claim] = None
        self._work.set()
        return claim

    def is_late(self, claim: Claim, now: float) -> bool:
        """Return True if the start of a claim is too long past, so that the request needs another one.

        Of the starts that a stall of the process has missed by more than `LATEST`, the last is used, since one request
        alone packs no window. A second claim is never late, so that each request is sent even if the process is slow
        all the time.
        """
        start = claim.start
        if start is None or claim.is_second or now - start <= LATEST:
            return False
        return any(other.start is not None and start < other.start <= now for other in self._ledger.unsent)

    def sent(self, claim: Claim) -> None:
        """Note that the request of a granted claim is sent now. `finished` has to follow."""
        del self._ledger.unsent[claim]
        self._ledger.sent += 1
        self._ledger.in_flight += 1

    def finished(self, *, aborted: bool = False) -> None:
        """Note that a request is no longer in flight; ``aborted`` if it was not sent after all."""
        self._ledger.in_flight -= 1
        self._ledger.sent -= aborted
        self._release()

    def give_back(self, claim: Claim) -> None:
        """Note that no request is sent with the claim."""
        self._ledger.waiting.pop(claim, None)
        if claim in self._ledger.unsent:
            del self._ledger.unsent[claim]
            self._release()

    def charge(self, tokens: float) -> None:
        """Charge the tokens that a request took beyond its claim; refund them if negative."""
        self._ledger.charge += tokens

    def add_account(self, account: Account) -> None:
        """Count what ``account`` spends from now on."""
        self._ledger.accounts.setdefault(account, account.spent)

    def stop_if_lost(self) -> Stop | None:
        """Return the stop of a run that has waited too long for a lost backend; None if it is not lost."""
        if not self.lost:
            return None
        reason = f"the backend of limits.shared cannot be reached, so nothing may be sent: {self.lost}"
        return Stop("unreachable", reason)

    async def _serve(self) -> None:
        while True:
            try:
                if self.lost:
                    # An error of the settings, too, may pass: a password that is changed on the server first.
                    await self._connect(retried=Exception)
                    self.lost = ""
                    _log.warning("the backend of limits.shared is back")
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen())
                    group.create_task(self._call_in_turn())
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be sent without the backend
                # In a task group an error takes the place of a cancellation that comes with it.
                if self._closing:
                    return
                self._lose(error)

    async def _connect(self, retried: type[Exception] = BackendLostError) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                await self._backend.connect()
                # The backend may be a new one, which knows of no cooldown.
                for endpoint in self._cooldowns:
                    await self._announce_remaining(endpoint)
                self._apply((), await self._reserve(()))
            except retried as error:
                self.lost = _text(error)
                await asyncio.sleep(uniform(wait / 2, wait))
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                return

    def _lose(self, error: Exception) -> None:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        self.lost = _text(error)
        self._ledger.void()
        _log.warning("the backend of limits.shared is lost; nothing is sent until it is back: %s", self.lost)

    async def _listen(self) -> None:
        now = asyncio.get_running_loop().time
        async for notice in self._backend.notices():
            _require_going_on()
            if not notice.endpoint:
                # Permits are wanted, or free: report those that are held, and ask for one.
                self._ledger.ask_early()
                self._work.set()
            elif (cooldown := self._cooldowns.get(notice.endpoint)) is not None:
                cooldown.until = max(cooldown.until, now() + min(notice.seconds, self._longest))

    async def _call_in_turn(self) -> None:
        now = asyncio.get_running_loop().time
        renewed_at = now()
        while True:
            claims = self._due(now())
            renews = renewed_at + _RENEWED_EVERY if self._ledger.held else inf
            if claims or now() >= renews or self._work.is_set():
                self._work.clear()
                # A call without a claim says that no request waits here, and then no free permit is reported.
                if not claims:
                    self._ledger.ask_early()
                    claims = self._due(now())
                reply = await self._reserve(claims)
                _require_going_on()
                renewed_at = now()
                self._apply(claims, reply)
                if self._backend.pause:
                    await asyncio.sleep(self._backend.pause)
            else:
                asks = min((claim.not_before for claim in self._ledger.waiting), default=inf)
                await self._sleep_until(min(max(asks, self._quiet_until), renews))

    async def _sleep_until(self, when: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(None if when == inf else when):
                await self._work.wait()

    def _due(self, now: float) -> tuple[Claim, ...]:
        if now < self._quiet_until:
            return ()
        due = [claim for claim in self._ledger.waiting if claim.not_before <= now]
        return tuple(sorted(due, key=lambda claim: not claim.urgent)[:_MOST_WANTS])

    async def _reserve(self, claims: tuple[Claim, ...]) -> Reply:
        charge, self._ledger.charge = self._ledger.charge, 0.0
        wants = tuple(claim.want for claim in claims)
        call = Call(self._ledger.client, self._state, token_hex(8), self._ledger.report(), wants, charge)
        try:
            return await self._backend.reserve(call)
        except BaseException:
            self._ledger.charge += charge
            raise

    def _apply(self, claims: tuple[Claim, ...], reply: Reply) -> None:
        now = asyncio.get_running_loop().time()
        self._others_wait = reply.others_wait
        if reply.state != self._state:
            if self._state:
                # The backend has lost its state, and other clients may not know it yet: starts that it granted them,
                # and the cooldowns that they know of, still hold.
                self._quiet_until = max(now + HORIZON, *(one.until for one in self._cooldowns.values()))
                self._ledger.void()
                _log.warning("limits.shared began anew; nothing is sent for %.1f s", self._quiet_until - now)
            self._state = reply.state
        if now < self._quiet_until:
            return
        for claim, answer in zip(claims, reply.answers, strict=True):
            if claim in self._ledger.waiting:
                self._take(claim, answer, now)
            elif answer.decided is Decided.GRANTED:
                # Its request was given up meanwhile. Until the next report the backend counts its permit as held.
                self._work.set()

    def _take(self, claim: Claim, answer: Answer, now: float) -> None:
        if answer.decided is Decided.LATER:
            claim.not_before = now + answer.seconds
            return
        del self._ledger.waiting[claim]
        if answer.decided is Decided.GRANTED:
            claim.start = now + answer.seconds
            self._ledger.unsent[claim] = None
            self._ledger.ask_early()
        else:
            claim.refused = _REFUSALS[answer.decided]
        claim.queue.notify_all()

    def _release(self) -> None:
        """Report a permit that has become free, if a request waits for one; else the next call is early enough."""
        if self._others_wait or self._ledger.waiting:
            self._ledger.ask_early()
            self._work.set()

    async def _announce(self, endpoint: str) -> None:
        with suppress(BackendLostError, ConfigError):  # the next call fails as well, and announces it on its return
            await self._announce_remaining(endpoint)

    async def _announce_remaining(self, endpoint: str) -> None:
        seconds = self._cooldowns[endpoint].until - asyncio.get_running_loop().time()
        if seconds > 0:
            await self._backend.cool_down(endpoint, min(seconds, self._longest))

    def _start(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _require_going_on() -> None:
    """Raise `CancelledError` if the task was cancelled while a backend's library held it, which may swallow that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
