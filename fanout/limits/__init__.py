"""How hard an endpoint may be driven: permits (in flight), rates (in a second or minute), a gate (not before).

`Adaptive` finds out how many permits an endpoint is worth. All of it decides synchronously and knows no clock: callers
pass in ``loop.time()``.
"""

from fanout.limits.adaptive import Adaptive
from fanout.limits.concurrency import ConcurrencyLimiter
from fanout.limits.cooldown import Cooldown
from fanout.limits.rates import Cost, RateLimiter, Reservation
from fanout.limits.tokens import TokenMeter, tiktoken_counter

__all__ = [
    "Adaptive",
    "ConcurrencyLimiter",
    "Cooldown",
    "Cost",
    "RateLimiter",
    "Reservation",
    "TokenMeter",
    "tiktoken_counter",
]
