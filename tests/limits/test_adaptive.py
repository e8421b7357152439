"""Adaptive concurrency, one decision at a time. How well they do together is judged in tests/simulator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.limits import Adaptive


class Endpoint:
    """Answers ``limit`` requests at a time, one generation after the other."""

    def __init__(self, largest: int = 256) -> None:
        self.now = 0.0
        self.adaptive = Adaptive(self.now, largest=largest)

    @property
    def limit(self) -> int:
        return self.adaptive.limit

    def answer(self, latency: float, in_flight: int | None = None) -> None:
        """A generation of answers that took so long."""
        sent, n = self.now, in_flight or self.limit
        self.now += latency
        for _ in range(n):
            self.adaptive.succeeded(self.now, sent=sent, in_flight=n)

    def refuse(self, n: int = 1) -> None:
        """Some requests sent at once are refused at once."""
        sent, in_flight = self.now + 0.001, self.limit
        self.now += 0.002
        for _ in range(n):
            self.adaptive.overloaded(self.now, sent=sent, in_flight=in_flight)

    def climb(self, limit: int) -> None:
        """Answer equally fast at any limit, up to this one."""
        for _ in range(1000):
            if self.limit >= limit:
                return
            self.answer(0.1)
        raise AssertionError(f"still at {self.limit}")


def test_it_doubles_for_as_long_as_latency_stays():
    endpoint, limits = Endpoint(), []
    for _ in range(24):
        endpoint.answer(0.1)
        limits.append(endpoint.limit)
    assert list(dict.fromkeys(limits)) == [8, 16, 32, 64, 128]


def test_it_stops_where_latency_grows_as_the_requests_in_flight_do_and_goes_back_to_the_knee():
    endpoint = Endpoint()
    for _ in range(25):
        endpoint.answer(0.1 * max(1, endpoint.limit / 16))
    assert 12 <= endpoint.limit <= 17


def test_it_goes_on_where_latency_grows_and_throughput_with_it():
    """As with a server that works in batches: three times the latency at 16 times the concurrency."""
    endpoint = Endpoint()
    for _ in range(40):
        endpoint.answer(0.1 + 0.2 * endpoint.limit / 128)
    assert endpoint.limit >= 64


def test_a_decrease_counts_once_a_round_trip():
    endpoint = Endpoint()
    endpoint.climb(64)
    endpoint.refuse(20)
    assert endpoint.limit == 57
    endpoint.refuse(20)
    assert endpoint.limit == 51


def test_refusals_one_after_the_other_bring_it_down_to_one_and_no_further():
    endpoint = Endpoint()
    for _ in range(100):
        endpoint.refuse()
    assert endpoint.limit == 1
    endpoint.answer(0.1)


def test_after_a_refusal_it_is_soon_back_and_long_just_below():
    endpoint = Endpoint()
    endpoint.climb(64)
    endpoint.answer(0.1)
    refused_at = endpoint.limit
    endpoint.refuse()
    seen = []
    start = endpoint.now
    while endpoint.now < start + 1.8:
        endpoint.answer(0.1)
        seen.append(endpoint.limit)
    assert max(seen) < refused_at
    assert sum(limit >= 0.95 * refused_at for limit in seen) > len(seen) / 2
    while endpoint.now < start + 8:
        endpoint.answer(0.1)
    assert endpoint.limit >= 2 * refused_at, "nobody refuses any more"


def test_an_hour_with_nothing_to_send_is_no_time_for_it():
    endpoint = Endpoint()
    endpoint.climb(32)
    endpoint.refuse()
    at = endpoint.limit
    for _ in range(20):
        endpoint.answer(0.1)
        endpoint.now += 3600
    assert at <= endpoint.limit <= 1.2 * at, "two seconds of the curve"
    endpoint.climb(2 * at)


def test_an_endpoint_that_refused_everything_for_a_while_is_soon_trusted_again():
    endpoint = Endpoint()
    endpoint.climb(32)
    endpoint.answer(0.1)
    for _ in range(50):
        endpoint.refuse()
    assert endpoint.limit == 1
    start = endpoint.now
    while endpoint.limit < 24:
        endpoint.answer(0.1)
    assert endpoint.now - start < 5


@pytest.mark.parametrize("in_flight", [1, 3, 6])
def test_it_does_not_grow_while_something_else_holds_the_run_back(in_flight):
    endpoint = Endpoint()
    for _ in range(1000):
        endpoint.answer(0.1, in_flight=in_flight)
    assert endpoint.limit == 8


def test_a_limit_that_was_never_reached_falls_to_what_was():
    endpoint = Endpoint()
    endpoint.climb(128)
    for _ in range(100):
        endpoint.answer(0.1, in_flight=10)
    endpoint.refuse()
    endpoint.answer(0.1, in_flight=10)
    assert endpoint.limit >= 100, "it was in use since the last decrease"
    for _ in range(100):
        endpoint.answer(0.1, in_flight=10)
    sent = endpoint.now
    endpoint.adaptive.overloaded(endpoint.now + 0.001, sent=sent, in_flight=11)
    assert endpoint.limit <= 11


def test_a_timeout_of_a_request_sent_long_ago_is_accounted_for():
    endpoint = Endpoint()
    endpoint.climb(64)
    sent = endpoint.now
    endpoint.now += 1
    endpoint.refuse()
    limit = endpoint.limit
    endpoint.adaptive.overloaded(endpoint.now + 60, sent=sent, in_flight=64)
    assert endpoint.limit == limit


def test_an_endpoint_that_grew_four_times_as_slow_in_mid_run_gets_a_fourth():
    endpoint = Endpoint()
    endpoint.climb(64)
    endpoint.refuse()
    for _ in range(10):
        endpoint.answer(0.1)
    at = endpoint.limit
    for _ in range(5):
        endpoint.answer(0.4)
    assert at / 6 <= endpoint.limit <= at / 3


def test_a_retreat_that_brings_no_lower_latency_is_taken_back():
    """All requests take three times as long from now on, however few they are."""
    endpoint = Endpoint()
    endpoint.climb(64)
    endpoint.refuse()
    for _ in range(40):
        endpoint.answer(0.1)
    at, seen = endpoint.limit, []
    for _ in range(40):
        endpoint.answer(0.3)
        seen.append(endpoint.limit)
    assert min(seen) < at / 2
    assert seen[-1] >= 0.9 * at
    assert seen.index(min(seen)) + seen.count(min(seen)) < 12, "within two rounds"


def test_single_slow_answers_move_it_hardly():
    endpoint = Endpoint()
    endpoint.climb(32)
    endpoint.refuse()
    for _ in range(10):
        endpoint.answer(0.1)
    before = endpoint.limit
    endpoint.adaptive.succeeded(endpoint.now + 30, sent=endpoint.now, in_flight=endpoint.limit)
    endpoint.answer(0.1)
    assert endpoint.limit >= before


def test_the_largest_limit_is_kept_and_measured_from_below_again():
    endpoint, limits = Endpoint(largest=20), set()
    for _ in range(500):
        endpoint.answer(0.1)
        limits.add(endpoint.limit)
    assert max(limits) <= 20
    assert {16, 19} <= limits


STEPS = st.lists(
    st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 100), st.integers(1, 300)), min_size=1, max_size=300
)


@given(steps=STEPS, largest=st.integers(1, 300))
def test_no_order_of_events_takes_it_out_of_its_bounds(steps, largest):
    adaptive, now = Adaptive(0.0, largest=largest), 0.0
    for good, passed, latency, in_flight in steps:
        now += passed
        tell = adaptive.succeeded if good else adaptive.overloaded
        tell(now, sent=now - latency, in_flight=in_flight)
        assert 1 <= adaptive.limit <= largest
