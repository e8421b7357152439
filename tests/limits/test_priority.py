"""Urgent requests go first: for slots in flight and for the starts of rates, which both still hold."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Limits, RateLimiter
from fanout.limits import ConcurrencyLimiter, Cost, Reservation


class TestSlots:
    async def order_of(self, kinds: str, *, cancelled: int | None = None) -> str:
        """Return the order in which waiters (u: urgent, b: bulk) get the one slot."""
        limiter, order = ConcurrencyLimiter(1), []
        await limiter.acquire()

        async def wait(kind: str) -> None:
            await limiter.acquire(urgent=kind == "u")
            order.append(kind)
            limiter.release()

        tasks = []
        for kind in kinds:
            tasks.append(asyncio.create_task(wait(kind)))
            await asyncio.sleep(0)
        assert limiter.is_urgent == ("u" in kinds)
        if cancelled is not None:
            tasks[cancelled].cancel()
        limiter.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == limiter.waiting == 0
        return "".join(order)

    @pytest.mark.parametrize(
        ("kinds", "order"),
        [("bbu", "ubb"), ("bbuuu", "uuubb"), ("bbuuuuuuuu", "uuubuuubuu"), ("uuuuu", "uuuuu"), ("b", "b")],
    )
    async def test_urgent_waiters_go_first_but_not_for_ever(self, kinds: str, order: str) -> None:
        assert await self.order_of(kinds) == order

    async def test_a_cancelled_waiter_takes_no_slot(self) -> None:
        assert await self.order_of("bub", cancelled=1) == "bb"
        assert await self.order_of("bub", cancelled=0) == "ub"

    async def test_a_newcomer_does_not_overtake_an_urgent_waiter(self) -> None:
        limiter = ConcurrencyLimiter(1)
        assert limiter.acquire_nowait()
        waiter = asyncio.create_task(limiter.acquire(urgent=True))
        await asyncio.sleep(0)
        limiter.release()
        assert not limiter.acquire_nowait()
        await waiter
        limiter.release()
        assert limiter.in_flight == 0


def starts(reservations: list[Reservation]) -> list[float]:
    return [reservation.start for reservation in reservations]


class TestRates:
    def test_an_urgent_reservation_takes_the_first_start_and_postpones_the_others(self) -> None:
        rates = RateLimiter(Limits(requests_per_second=1))
        bulk = [rates.reserve(0.0, Cost()) for _ in range(4)]
        assert starts(bulk) == [0, 1, 2, 3]
        urgent = [rates.reserve(0.5, Cost(), urgent=True) for _ in range(2)]
        # The first bulk request has begun.
        assert starts(urgent) == [1, 2]
        assert starts(bulk) == [0, 3, 4, 5]

    def test_a_returned_reservation_leaves_its_start_to_the_next(self) -> None:
        rates = RateLimiter(Limits(requests_per_second=1))
        rates.reserve(0.0, Cost())
        bulk, urgent = rates.reserve(0.0, Cost()), rates.reserve(0.0, Cost(), urgent=True)
        rates.give_back(urgent)
        assert (urgent.start, bulk.start) == (1, 2)
        assert rates.reserve(0.0, Cost(), urgent=True).start == 1

    @given(
        calls=st.lists(
            st.tuples(st.floats(0, 0.4), st.booleans(), st.integers(1, 5), st.booleans()), min_size=1, max_size=60
        )
    )
    def test_the_rates_hold_whatever_the_order(self, calls: list[tuple[float, bool, int, bool]]) -> None:
        """Requests are sent at their starts, or given back before: the gaps pay for what went before."""
        rates, now = RateLimiter(Limits(requests_per_second=10, rows_per_second=20)), 0.0
        kept: list[Reservation] = []
        for wait, urgent, rows, returned in calls:
            now += wait
            before = starts(kept)
            reservation = rates.reserve(now, Cost(rows=rows), urgent=urgent)
            # A start that has come stays, and no other comes earlier than it was.
            assert all(
                one.start == old if old <= now else one.start >= old for one, old in zip(kept, before, strict=True)
            )
            assert reservation.start >= now
            if returned:
                rates.give_back(reservation)
            else:
                kept.append(reservation)
        kept.sort(key=lambda one: one.start)
        gaps = np.diff(starts(kept))
        needed = [max(0.1, one.cost.rows / 20) for one in kept[:-1]]
        assert (gaps >= np.array(needed) - 1e-6).all()
