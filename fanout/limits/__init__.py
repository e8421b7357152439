"""How hard an endpoint may be driven: permits (in flight), a rate (starts in a second), a gate (not before).

`Adaptive` finds out how many permits an endpoint is worth. All of it decides synchronously and knows no clock: callers
pass in ``loop.time()``.
"""

from fanout.limits.adaptive import Adaptive
from fanout.limits.gate import Gate
from fanout.limits.permits import Permits
from fanout.limits.rate import Rate

__all__ = ["Adaptive", "Gate", "Permits", "Rate"]
