"""Spending: the cost and the tokens of requests, estimated before they are sent and settled by the reported usage.

An `Account` keeps the limits ``max_cost`` and ``max_tokens_total``. Every request reserves its estimate before it is
sent, so that the limits count what is in flight: they are exceeded by the errors of these estimates at most.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fanout._lazy import pattern
from fanout.prices import Prices
from fanout.stop import WaitQueue
from fanout.usage import TokenCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.chunker import ChunkTask
    from fanout.limits.tokens import TokenMeter
    from fanout.settings import Limits
    from fanout.statistics import Spending

# The first estimates, as long as no usage is known: English has four bytes to a token, and an answer without a limit
# in its request may have some hundred tokens.
_BYTES_PER_TOKEN = 4.0
_OUTPUT_TOKENS = 256.0

# Decay of the weight of earlier responses with each new one: about the last twenty determine the estimate.
_REMEMBERED = 0.95

# The key by which a request bounds the tokens of its answer: OpenAI, Anthropic, Gemini, Ollama.
_OUTPUT_LIMIT = pattern(
    rb'"(?:max_tokens|max_completion_tokens|max_output_tokens|max_new_tokens|maxOutputTokens|num_predict)"'
    rb"\s*:\s*([0-9]{1,9})\b"
)

# Sums of many small floats are off by this fraction at most.
_ROUNDING = 1e-9

# Valid answers without a usage after which the limits cannot be kept.
_MOST_UNMEASURED = 3

# An allowance pays for one in so many of the requests that are left within the limits.
_SHARE = 8


class Amount(NamedTuple):
    """Money in the currency of the prices, and tokens."""

    cost: float = 0.0
    tokens: float = 0.0

    def plus(self, other: Amount) -> Amount:
        """The sum."""
        return Amount(self.cost + other.cost, self.tokens + other.tokens)

    def minus(self, other: Amount) -> Amount:
        """The difference."""
        return Amount(self.cost - other.cost, self.tokens - other.tokens)

    def exceeds(self, limit: Amount) -> bool:
        """True if one of the two is above ``limit``."""
        return self.cost > limit.cost * (1 + _ROUNDING) or self.tokens > limit.tokens * (1 + _ROUNDING)


UNLIMITED = Amount(inf, inf)


class Reserved(NamedTuple):
    """The estimate of one request that is in flight."""

    amount: Amount
    rows: int
    body_bytes: int


class Refusal(NamedTuple):
    """No request may be sent any more."""

    reason: str


Reservation: TypeAlias = Reserved | Refusal | None
"""None: wait until a request in flight is settled, or the allowance is raised."""


class TokenEstimator:
    """Estimates the input and output tokens of requests from the usage in earlier responses.

    Input tokens are taken to be proportional to the bytes of the body, output tokens to the rows.

    Args:
        meter: counts the input tokens, if the user has a function for that.
    """

    def __init__(self, meter: TokenMeter) -> None:
        self._meter = meter
        self.learnt = False
        self._bytes, self._input = _BYTES_PER_TOKEN, 1.0
        self._rows, self._output = 0.0, 0.0

    @property
    def is_measured(self) -> bool:
        """True if the tokens are known by more than a guess."""
        return self.learnt or self._meter.counts

    def input_tokens(self, task: ChunkTask) -> float:
        """Return the tokens of an encoded task, counted or estimated."""
        assert task.payload is not None
        if not self._meter.counts:
            return task.payload.nbytes * self._input / self._bytes
        # Kept on the task, because the user's function may be slow.
        if task.tokens is None:
            task.tokens = self._meter.of_request(task.rows, task.payload.nbytes)
        return task.tokens

    def output_tokens(self, rows: int, limit: int | None) -> float:
        """Tokens of the answer; ``limit`` is the number to which the request bounds them."""
        if self.learnt:
            return rows * self._output / self._rows
        return float(limit) if limit is not None else rows * _OUTPUT_TOKENS

    def learn(self, body_bytes: int, rows: int, counts: TokenCounts) -> None:
        """Take in the tokens that a response reports."""
        # The first response replaces the guess, and does not mix with it.
        kept = _REMEMBERED if self.learnt else 0.0
        self.learnt = True
        self._bytes = kept * self._bytes + body_bytes
        self._input = kept * self._input + counts.input
        self._rows = kept * self._rows + rows
        self._output = kept * self._output + counts.output


class Account:
    """The spending of one run, or of all runs of a client that have no journal, within its limits.

    Args:
        limits: ``max_cost`` and ``max_tokens_total`` count.
        meter: counts the tokens of rows, if the user has a function for that.
        wait_queue: requests that wait for room; it is notified whenever there may be some.
        spent: by earlier processes of the same run.
    """

    def __init__(
        self, prices: Prices, limits: Limits, meter: TokenMeter, wait_queue: WaitQueue, spent: Amount | None = None
    ) -> None:
        self.prices = prices
        self.spent = spent or Amount()
        self.reserved = Amount()
        self.in_flight = 0
        self.limit = Amount(
            inf if limits.max_cost is None else limits.max_cost,
            inf if limits.max_tokens_total is None else limits.max_tokens_total,
        )
        self.allowance = UNLIMITED
        """The sum that may be spent before more is allowed: a journal records it first."""

        self.on_exhausted: Callable[[], None] = lambda: None
        """Called when a request has to wait for a larger allowance."""

        self.wait_queue = wait_queue
        self.estimator = TokenEstimator(meter)
        self._unmeasured = 0
        self._has_unpriced = False
        self._needed = Amount()

    @property
    def is_limited(self) -> bool:
        """True if there is a limit to keep."""
        return self.limit != UNLIMITED

    def estimate(self, task: ChunkTask) -> Amount:
        """Return the expected spending of one attempt of an encoded task."""
        if not self.prices.by_tokens and self.limit.tokens == inf:
            return Amount(self.prices.of(TokenCounts(), task.n))
        given, output = self.estimator.input_tokens(task), 0.0
        if self.estimator.learnt or self.prices.output_per_million is not None:
            output = self.estimator.output_tokens(task.n, output_limit(task))
        return Amount(self.prices.of_tokens(given, 0.0, output) + self.prices.of_requests(1, task.n), given + output)

    def reserve(self, task: ChunkTask) -> Reservation:
        """Reserve the estimate of one attempt, if the limits leave room for it."""
        amount = self.estimate(task)
        if self.is_limited:
            if (reason := self._unknowable()) is not None:
                return Refusal(reason)
            # An estimate without any usage may be far off, so that the first request measures it alone.
            if self.in_flight and not self._is_measured:
                return None
            total = self.spent.plus(self.reserved).plus(amount)
            if total.exceeds(self.limit):
                return None if self.in_flight else Refusal(self._exhausted(amount))
            if total.exceeds(self.allowance):
                self._needed = amount
                self.on_exhausted()
                return None
        assert task.payload is not None
        self.in_flight += 1
        self.reserved = self.reserved.plus(amount)
        return Reserved(amount, task.n, task.payload.nbytes)

    def next_allowance(self, requests: int) -> Amount:
        """Return a sum that allows more requests like the one that has to wait, within the limits.

        Allows ``requests`` of them, but at most a small share of those that the limits still pay for.
        """
        total = self.spent.plus(self.reserved)
        left, needed = self.limit.minus(total), self._needed
        paid_for = min(
            left.cost / needed.cost if needed.cost else inf, left.tokens / needed.tokens if needed.tokens else inf
        )
        # A process that is killed is charged its whole allowance, which must not be all that a small limit leaves.
        n = max(1, min(requests, int(min(paid_for, requests * _SHARE) / _SHARE)))
        return Amount(
            min(self.limit.cost, total.cost + n * needed.cost), min(self.limit.tokens, total.tokens + n * needed.tokens)
        )

    def release(self, reserved: Reserved) -> None:
        """End a reservation whose request was not sent, or refused."""
        self.in_flight -= 1
        # Exactly zero again, so that no rounding errors add up over a long run.
        self.reserved = self.reserved.minus(reserved.amount) if self.in_flight else Amount()
        self.wait_queue.notify_all()

    def measures(self, counts: TokenCounts) -> bool:
        """True if these tokens are the whole of a response. Where input tokens count, each request has some."""
        counts_input = self.prices.input_per_million or self.prices.cached_per_million or self.limit.tokens < inf
        return bool(counts.input if counts_input else counts.total)

    def charge(self, reserved: Reserved, counts: TokenCounts, spending: Spending) -> None:
        """Charge a response by its tokens."""
        self.estimator.learn(reserved.body_bytes, reserved.rows, counts)
        cost = self.prices.of(counts, reserved.rows)
        is_priced = self.prices.covers(counts)
        self._has_unpriced = self._has_unpriced or not is_priced
        spending.measure(cost, reserved.rows, priced=is_priced)
        self._settle(reserved, Amount(cost, counts.total))

    def charge_estimate(self, reserved: Reserved, spending: Spending, *, answered: bool = False) -> None:
        """Charge the estimate of a request that the server may bill, but whose usage is unknown.

        ``answered``: its answer is valid, so its usage would have been read.
        """
        if answered and not self.prices.by_tokens:
            spending.measure(reserved.amount.cost, reserved.rows)
        else:
            spending.guess(reserved.amount.cost, answered=answered)
        self._unmeasured += answered
        self._settle(reserved, reserved.amount)

    def _settle(self, reserved: Reserved, amount: Amount) -> None:
        self.spent = self.spent.plus(amount)
        self.release(reserved)

    @property
    def _is_measured(self) -> bool:
        needs_tokens = self.prices.by_tokens or self.limit.tokens < inf
        return not needs_tokens or self.estimator.is_measured

    def _unknowable(self) -> str | None:
        """The reason why the limits cannot be kept; None if they can."""
        name = "max_cost" if self.limit.cost < inf else "max_tokens_total"
        if self._unmeasured >= _MOST_UNMEASURED and not self._is_measured:
            return (
                f"limits.{name} cannot be kept: the responses report no input tokens; name the paths of their counts "
                "in codec.usage, or count them with limits.tokenizer"
            )
        if self.limit.cost < inf and self._has_unpriced:
            return (
                "limits.max_cost cannot be kept: the responses count output tokens; set cost.output_per_million "
                "(0 if they are free)"
            )
        return None

    def _exhausted(self, amount: Amount) -> str:
        spent, limit, currency = self.spent, self.limit, self.prices.currency
        if spent.plus(amount).cost > limit.cost * (1 + _ROUNDING):
            return (
                f"the next request is estimated at {amount.cost:.4g} {currency}, and {spent.cost:.6g} of "
                f"limits.max_cost = {limit.cost:g} {currency} are spent: raise it to go on"
            )
        return (
            f"the next request is estimated at {amount.tokens:,.0f} tokens, and {spent.tokens:,.0f} of "
            f"limits.max_tokens_total = {limit.tokens:.0f} are used: raise it to go on"
        )


class Accounts:
    """The accounts of one client, which all have its prices and its limits.

    Args:
        prices: of the API; None without any.
        limits: ``max_requests``, ``max_cost`` and ``max_tokens_total`` count.
        meter: as for `Account`.
    """

    def __init__(self, prices: Prices | None, limits: Limits, meter: TokenMeter) -> None:
        self.prices = prices
        self.max_requests = limits.max_requests
        """Maximum requests since the client was opened, metadata included; None for any number."""

        self._limits = limits
        self._meter = meter
        self.common = self.open()
        """The account of all runs that have none of their own; None if nothing is to be counted."""

    def open(self, spent: Amount | None = None) -> Account | None:
        """Open an account, of which earlier processes have spent ``spent``; None if nothing has a price or a limit."""
        prices = self.prices or Prices()
        if not prices.is_set and self._limits.max_tokens_total is None:
            return None
        return Account(prices, self._limits, self._meter, WaitQueue(), spent)


def output_limit(task: ChunkTask) -> int | None:
    """The number of tokens to which the request bounds its answer, if it has such a key."""
    body = task.payload.body if task.payload is not None else b""
    found = _OUTPUT_LIMIT.search(body) if isinstance(body, bytes) else None
    return int(found[1]) if found is not None else None
