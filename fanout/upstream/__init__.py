"""What one endpoint of a pool is like beside the others: how quick, how healthy, and which of them is to be asked next.

All of it decides synchronously and knows no clock: callers pass in ``loop.time()``.
"""

from fanout.upstream.choice import Candidate, best_of_two
from fanout.upstream.health import Health
from fanout.upstream.latency import PeakEwma

__all__ = ["Candidate", "Health", "PeakEwma", "best_of_two"]
