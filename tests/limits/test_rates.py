"""Rates: no window exceeds them, no request starts before its time, and no reservation is wasted."""

from __future__ import annotations

import threading
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Limits
from fanout.limits import Cost, RateLimiter
from fanout.limits.rates import LATEST

if TYPE_CHECKING:
    from fanout.limits import Reservation

PER = {"second": 1.0, "minute": 60.0}
NAMES = [f"{unit}_per_{period}" for unit in ("requests", "rows", "tokens") for period in PER]
RATES = st.dictionaries(st.sampled_from(NAMES), st.floats(0.1, 1000), min_size=1)
COSTS = st.tuples(st.integers(0, 200), st.integers(0, 2000)).map(lambda much: Cost(1, *much))
TIMES = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=40).map(sorted)


def starts_of(limiter: RateLimiter, now: float, n: int, **cost: float) -> list[float]:
    return [limiter.reserve(now, Cost(**cost)).start for _ in range(n)]


def most_in_window(sent: list[tuple[float, float]], seconds: float) -> float:
    return max(sum(much for other, much in sent if first <= other <= first + seconds) for first, _ in sent)


@given(rates=RATES, burst=st.floats(0, 3), arrivals=TIMES, window=st.floats(0, 80), data=st.data())
def test_no_window_holds_more_than_its_rate_and_the_burst(
    rates: dict[str, float], burst: float, arrivals: list[float], window: float, data: st.DataObject
) -> None:
    limiter = RateLimiter(Limits(**rates, burst=burst))
    kept: list[Reservation] = []
    for now in arrivals:
        kept.append(limiter.reserve(now, data.draw(COSTS)))
        ahead = [reservation for reservation in kept if reservation.start > now]
        if ahead and data.draw(st.integers(0, 3)) == 0:  # a waiting request gives up
            limiter.give_back(gone := data.draw(st.sampled_from(ahead)))
            kept.remove(gone)
    for name, most in rates.items():
        unit, _, period = name.split("_")
        sent = [(reservation.start, getattr(reservation.cost, unit)) for reservation in kept]
        if not sent:
            continue
        burst_size = max(burst * most, *(much for _, much in sent), 0)
        allowed = most / PER[period] * window + burst_size
        assert most_in_window(sent, window) <= allowed * (1 + 1e-9) + 1e-6


@given(rates=RATES, burst=st.floats(0, 3), arrivals=TIMES, costs=st.lists(COSTS, min_size=40, max_size=40))
def test_no_request_starts_before_it_asks(
    rates: dict[str, float], burst: float, arrivals: list[float], costs: list[Cost]
) -> None:
    limiter = RateLimiter(Limits(**rates, burst=burst))
    assert all(limiter.reserve(now, cost).start >= now for now, cost in zip(arrivals, costs, strict=False))


WAITERS = st.lists(COSTS, min_size=1, max_size=20)


@given(rates=RATES, burst=st.floats(0, 3), arrivals=TIMES, waiters=WAITERS, data=st.data())
def test_returned_reservations_cost_nothing(
    rates: dict[str, float], burst: float, arrivals: list[float], waiters: list[Cost], data: st.DataObject
) -> None:
    limits = Limits(**rates, burst=burst)
    limiter, alone = RateLimiter(limits), RateLimiter(limits)
    for now in arrivals:
        limiter.reserve(now, Cost(rows=5))
        alone.reserve(now, Cost(rows=5))
    now = arrivals[-1]
    reservations = [limiter.reserve(now, cost) for cost in waiters]
    ahead = [reservation for reservation in reservations if reservation.start > now]
    for reservation in reservations:
        if reservation.start <= now:
            alone.reserve(now, reservation.cost)
    for reservation in data.draw(st.permutations(ahead)):
        limiter.give_back(reservation)
    assert limiter.reserve(now, Cost(rows=7)).start == pytest.approx(alone.reserve(now, Cost(rows=7)).start)


@given(rate=st.floats(0.5, 500), burst=st.floats(0, 1), began=st.floats(0, 3), stall=st.floats(0, 3))
def test_a_process_that_stands_still_does_not_send_at_once_all_that_it_has_missed(
    rate: float, burst: float, began: float, stall: float
) -> None:
    limiter = RateLimiter(Limits(requests_per_second=rate, burst=burst))

    def wakes(start: float) -> float:
        return began + stall if began < start < began + stall else start

    waiting = [(wakes(one.start), i, one) for i in range(60) if (one := limiter.reserve(0.0, Cost()))]
    sent: list[tuple[float, float]] = []
    while waiting:
        now, i, reservation = heappop(waiting)
        if limiter.is_stale(reservation, now):
            reservation = limiter.reserve(now, Cost(), is_final=True)
        if reservation.start > now:
            heappush(waiting, (wakes(reservation.start), i, reservation))
        else:
            sent.append((now, 1))
    assert most_in_window(sent, 1.0) <= (1 + burst + LATEST) * rate + 2 + 1e-6
    # Only the stall is lost.
    assert sent[-1][0] <= max(0.0, 59 / rate - burst) + stall + 1 / rate + 1e-6


def test_a_start_may_be_as_late_as_the_time_that_its_request_pays_for() -> None:
    limiter = RateLimiter(Limits(requests_per_second=100, tokens_per_minute=600))
    small, large = (limiter.reserve(0.0, Cost(tokens=tokens)) for tokens in (0, 5))
    assert [limiter.is_stale(small, small.start + late) for late in (0.099, 0.101)] == [False, True]
    assert [limiter.is_stale(large, large.start + late) for late in (0.49, 0.51)] == [False, True]
    final = limiter.reserve(1.0, Cost(), is_final=True)
    assert not limiter.is_stale(final, final.start + 1000)


def test_starts_are_evenly_spaced_without_a_burst() -> None:
    assert starts_of(RateLimiter(Limits(requests_per_second=4)), 10.0, 4) == [10.0, 10.25, 10.5, 10.75]


def test_idle_time_is_not_saved_up_without_a_burst() -> None:
    limiter = RateLimiter(Limits(requests_per_second=10))
    limiter.reserve(0.0, Cost())
    assert starts_of(limiter, 100.0, 2) == [100.0, 100.1]


def test_a_burst_goes_at_once_and_later_requests_are_spaced() -> None:
    limiter = RateLimiter(Limits(requests_per_second=4, burst=0.75))
    assert starts_of(limiter, 10.0, 5) == pytest.approx([10.0, 10.0, 10.0, 10.25, 10.5])
    assert starts_of(limiter, 11.0, 2) == pytest.approx([11.0, 11.0])  # two were saved up since


def test_all_of_several_rates_hold() -> None:
    limiter = RateLimiter(Limits(requests_per_second=5, requests_per_minute=60, burst=1))
    starts = starts_of(limiter, 0.0, 90)
    assert starts[:7] == pytest.approx([0, 0, 0, 0, 0, 0.2, 0.4])  # five at once, then five a second
    assert starts[59] == pytest.approx(11.0)
    assert starts[89] == pytest.approx(starts[85] + 4)  # the minute's are spent


def test_rows_are_paid_for_by_their_number_and_a_larger_request_than_the_burst_pays_its_time() -> None:
    limiter = RateLimiter(Limits(rows_per_minute=600, burst=0.1))
    assert starts_of(limiter, 0.0, 3, rows=20) == pytest.approx([0.0, 0.0, 0.0])
    assert starts_of(limiter, 0.0, 1, rows=200) == pytest.approx([6.0])
    assert starts_of(limiter, 0.0, 1, rows=10) == pytest.approx([21.0])


def test_a_request_without_rows_pays_no_rate_of_rows() -> None:
    limiter = RateLimiter(Limits(rows_per_second=1))
    limiter.reserve(0.0, Cost(rows=100))
    assert limiter.reserve(0.0, Cost()).start == 0.0


def test_a_rate_that_holds_a_request_back_lets_nothing_of_the_others_go_to_waste() -> None:
    """The start is taken from both: the rate that would have allowed it sooner does not count the wait as used."""
    limiter = RateLimiter(Limits(requests_per_second=10, rows_per_second=1))
    assert starts_of(limiter, 0.0, 2, rows=5) == [0.0, 5.0]
    limiter.give_back(limiter.reserve(0.0, Cost(rows=5)))
    assert limiter.reserve(0.0, Cost(rows=5)).start == 10.0


def test_a_reservation_given_back_from_the_middle_moves_no_other_forward() -> None:
    limiter = RateLimiter(Limits(requests_per_second=1))
    reservations = [limiter.reserve(0.0, Cost()) for _ in range(4)]
    limiter.give_back(reservations[2])
    assert [reservation.start for reservation in reservations] == [0.0, 1.0, 2.0, 3.0]
    assert limiter.reserve(0.0, Cost()).start == 4.0


def test_a_reservation_whose_start_has_passed_is_not_returned() -> None:
    limiter = RateLimiter(Limits(requests_per_second=1))
    reservations = [limiter.reserve(0.0, Cost()) for _ in range(3)]
    assert limiter.reserve(2.0, Cost()).start == 3.0
    limiter.give_back(reservations[2])
    limiter.give_back(None)
    assert limiter.reserve(2.0, Cost()).start == 4.0


def test_without_a_rate_all_requests_start_at_once() -> None:
    limiter = RateLimiter(Limits())
    assert starts_of(limiter, 5.0, 3, rows=1000) == [5.0] * 3
    assert not limiter.active


def test_threads_that_reserve_at_once_get_different_starts() -> None:
    limiter = RateLimiter(Limits(requests_per_second=1000))
    starts: list[float] = []

    def ask() -> None:
        starts.extend(starts_of(limiter, 0.0, 1000))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(starts) == pytest.approx([i / 1000 for i in range(4000)])


def test_tokens_counted_later_are_charged_to_the_next_request() -> None:
    limiter = RateLimiter(Limits(tokens_per_second=100))
    waiting = [limiter.reserve(0.0, Cost(tokens=50)) for _ in range(2)]
    limiter.charge(0.2, 200)
    assert waiting[1].start == 0.5  # a promise stands
    assert limiter.reserve(0.2, Cost(tokens=50)).start == pytest.approx(3.0)
    limiter.charge(0.2, -100)
    assert limiter.reserve(0.2, Cost(tokens=50)).start == pytest.approx(3.5)


def test_tokens_charged_to_an_idle_rate_are_paid_for_from_the_request_on() -> None:
    limiter = RateLimiter(Limits(tokens_per_second=100))
    limiter.reserve(10.0, Cost(tokens=100))
    limiter.charge(10.5, 900)
    assert limiter.reserve(10.5, Cost(tokens=1)).start == pytest.approx(20.0)


class TestSlowedDown:
    """An endpoint reports its remaining quota."""

    def slowed(self, limits: Limits | None = None, **quota: Any) -> RateLimiter:
        limiter = RateLimiter(limits or Limits())
        limiter.throttle("x", **{"unit": "requests", "left": 4, "seconds": 8.0, "now": 100.0} | quota)
        return limiter

    def test_the_remaining_quota_is_spread_over_the_window(self) -> None:
        limiter = self.slowed()
        assert limiter.active
        assert starts_of(limiter, 100.0, 6) == [102.0, 104.0, 106.0, 108.0, 108.0, 108.0]

    def test_a_throttle_ends_with_the_window(self) -> None:
        limiter = self.slowed()
        assert starts_of(limiter, 108.0, 3) == [108.0] * 3
        assert not limiter.active

    def test_a_throttle_ends_when_the_quota_suffices_again(self) -> None:
        limiter = self.slowed()
        limiter.unthrottle("another")
        assert limiter.active
        limiter.unthrottle("x")
        assert not limiter.active

    def test_a_later_report_replaces_an_earlier_one_and_counts_waiting_requests(self) -> None:
        limiter = self.slowed()
        assert starts_of(limiter, 100.0, 2) == [102.0, 104.0]
        limiter.throttle("x", "requests", 1, 7.0, 102.0)
        assert limiter.reserve(102.0, Cost()).start == 109.0  # 104 and the new interval, cut to the end
        assert starts_of(limiter, 109.0, 2) == [109.0] * 2

    def test_a_quota_in_every_response_lets_no_additional_request_start(self) -> None:
        limiter = self.slowed(left=10, seconds=100.0)
        starts: list[float] = []
        for now in range(101, 150):
            limiter.throttle("x", "requests", 10, 100.0, float(now))
            if not starts or starts[-1] <= now:
                starts.append(limiter.reserve(float(now), Cost()).start)
        assert starts == pytest.approx([110, 120, 130, 140, 150])

    def test_a_smaller_quota_makes_reservations_stale(self) -> None:
        limiter = RateLimiter(Limits(requests_per_second=1))
        waiting = [limiter.reserve(100.0, Cost()) for _ in range(3)]
        assert not limiter.is_stale(waiting[2], 100.0)
        limiter.throttle("x", "requests", 2, 20.0, 100.5)
        assert limiter.is_stale(waiting[2], 100.5)
        assert [limiter.reserve(101.0, Cost()).start for _ in waiting] == [110.5, 120.5, 121.5]

    def test_the_rates_of_the_settings_hold_beside_a_quota(self) -> None:
        limiter = self.slowed(Limits(requests_per_second=0.1))
        assert starts_of(limiter, 100.0, 2) == [102.0, 112.0]

    def test_the_repr_shows_the_rates(self) -> None:
        limiter = self.slowed(Limits(rows_per_minute=30))
        limiter.reserve(100.0, Cost(rows=1))
        assert repr(limiter) == "<RateLimiter 0.5 rows/s, 0.5 requests/s, 1 starts reserved>"
        assert repr(RateLimiter(Limits())) == "<RateLimiter without rates, 0 starts reserved>"
