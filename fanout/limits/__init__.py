"""Limits on requests: in flight at once (capacity), in a second or minute (rates), and their size.

`fanout.limits.adaptive` finds the number of requests in flight that an endpoint can take. Everything here decides
synchronously and knows no clock: callers pass in ``loop.time()``.
"""

from fanout.limits.capacity import Capacity, ConcurrencyController, ConcurrencyLimiter
from fanout.limits.rates import Cost, RateLimiter, Reservation
from fanout.limits.spending import Account, Accounts, Amount
from fanout.limits.tokens import TokenMeter, tiktoken_counter

__all__ = [
    "Account",
    "Accounts",
    "Amount",
    "Capacity",
    "ConcurrencyController",
    "ConcurrencyLimiter",
    "Cost",
    "RateLimiter",
    "Reservation",
    "TokenMeter",
    "tiktoken_counter",
]
