"""Of two endpoints drawn at random, the less loaded one is chosen."""

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


def test_a_single_candidate_is_chosen():
    assert drawn(Stub("a", pending=99), times=3) == {"a": 3}


def test_lower_latency_fewer_requests_in_flight_and_a_larger_weight_win():
    assert drawn(Stub("a", 0.1), Stub("b", 0.2)) == {"a": 2000}
    assert drawn(Stub("a", pending=1), Stub("b", pending=2)) == {"a": 2000}
    assert drawn(Stub("a", pending=5, share=4), Stub("b", pending=2)) == {"a": 2000}


def test_requests_in_flight_outweigh_a_small_difference_in_latency():
    assert drawn(Stub("a", 0.1, pending=9), Stub("b", 0.15, pending=1)) == {"b": 2000}


def test_an_endpoint_of_unknown_latency_counts_as_the_fastest_but_does_not_get_all_requests():
    assert drawn(Stub("new", None), Stub("old", 0.1, pending=1)) == {"new": 2000}
    assert drawn(Stub("new", None, pending=3), Stub("old", 0.1, pending=1)) == {"old": 2000}


def test_equal_endpoints_share_the_requests_and_the_slowest_gets_none():
    counts = drawn(*(Stub(name) for name in "abc"), Stub("slow", 10.0), times=4000)
    assert "slow" not in counts
    assert all(counts[name] > 1000 for name in "abc")
