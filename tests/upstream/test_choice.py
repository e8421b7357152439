"""Two are drawn, the less loaded one is asked."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from fanout.transport import Cooldown
from fanout.upstream.balancer import best_of_two
from fanout.upstream.group import EndpointState

if TYPE_CHECKING:
    from fanout.transport import EndpointClient


class Stub(EndpointState):
    def __init__(self, name: str, seconds: float | None = 1.0, pending: int = 0, share: float = 1.0) -> None:
        transport = cast("EndpointClient", SimpleNamespace(shown_url=name, cooldown=Cooldown()))
        nothing = cast("Any", None)
        super().__init__(transport, nothing, nothing, weight=share)
        self.name = name
        self.in_flight = pending
        self.health.latency.seconds = seconds


def drawn(*candidates: Stub, times: int = 2000) -> Counter[str]:
    return Counter(best_of_two(candidates, 0.0).transport.shown_url for _ in range(times))


def test_the_only_one_is_asked():
    assert drawn(Stub("a", pending=99), times=3) == {"a": 3}


def test_of_two_the_quicker_the_idler_and_the_weightier_is_asked():
    assert drawn(Stub("a", 0.1), Stub("b", 0.2)) == {"a": 2000}
    assert drawn(Stub("a", pending=1), Stub("b", pending=2)) == {"a": 2000}
    assert drawn(Stub("a", pending=5, share=4), Stub("b", pending=2)) == {"a": 2000}


def test_pending_requests_outweigh_a_small_difference_in_speed():
    assert drawn(Stub("a", 0.1, pending=9), Stub("b", 0.15, pending=1)) == {"b": 2000}


def test_one_that_is_not_known_counts_as_quick_but_is_not_asked_by_everybody():
    assert drawn(Stub("new", None), Stub("old", 0.1, pending=1)) == {"new": 2000}
    assert drawn(Stub("new", None, pending=3), Stub("old", 0.1, pending=1)) == {"old": 2000}


def test_among_many_alike_each_gets_its_turn_and_the_worst_none():
    counts = drawn(*(Stub(name) for name in "abc"), Stub("slow", 10.0), times=4000)
    assert "slow" not in counts
    assert all(counts[name] > 1000 for name in "abc")
