"""Which endpoint is asked next: the better of two that are drawn at random."""

from __future__ import annotations

from random import sample
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.upstream.latency import PeakEwma


class Candidate(Protocol):
    """What the choice looks at."""

    pending: int
    """Requests that it has not answered yet."""

    latency: PeakEwma

    def weight(self, now: float) -> float:
        """Its share beside others of the same load."""


C = TypeVar("C", bound=Candidate)


def best_of_two(candidates: Sequence[C], now: float) -> C:
    """The one of two random candidates with the smaller load: latency x (requests pending + 1) / weight.

    Two choices are nearly as good as to look at all, and do not send everybody to the same one (M. Mitzenmacher, "The
    Power of Two Choices in Randomized Load Balancing", 2001). One whose latency is not known yet counts as quick as the
    quickest: it is asked, but not by everybody at once.
    """
    if len(candidates) == 1:
        return candidates[0]
    known = [one.latency.seconds for one in candidates if one.latency.seconds is not None]
    unknown = min(known, default=1.0)
    first, second = sample(candidates, 2)
    return first if _load(first, now, unknown) <= _load(second, now, unknown) else second


def _load(one: Candidate, now: float, unknown: float) -> float:
    seconds = unknown if one.latency.seconds is None else one.latency.seconds
    return seconds * (one.pending + 1) / one.weight(now)
