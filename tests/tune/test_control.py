"""One handle over the many runs of a search."""

from __future__ import annotations

import asyncio

import pytest

from fanout.engine import Stop
from fanout.tune import SearchControl


class Run:
    """Notes how it was stopped."""

    def __init__(self) -> None:
        self.stops: list[tuple[Stop, bool]] = []

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        self.stops.append((stop, cut))


def test_it_ends_the_run_under_way_and_not_those_before_it():
    control, earlier, current = SearchControl(), Run(), Run()
    control.fresh().attach(earlier)
    control.fresh().attach(current)
    control.drain("enough")
    control.cut("at once")
    assert earlier.stops == []
    assert current.stops == [(Stop("interrupted", "enough"), False), (Stop("interrupted", "at once"), True)]


def test_a_run_that_begins_after_the_end_was_asked_for_ends_at_once():
    control, late = SearchControl(), Run()
    assert not control.ended
    control.drain("interrupted by SIGINT")
    control.fresh().attach(late)
    assert (control.ended, control.reason) == (True, "interrupted by SIGINT")
    assert late.stops == [(Stop("interrupted", "interrupted by SIGINT"), False)]


@pytest.mark.virtual_time
async def test_it_sleeps_until_then_or_until_the_end():
    control, loop = SearchControl(), asyncio.get_running_loop()
    await control.sleep(5)
    assert loop.time() == pytest.approx(5)
    loop.call_later(2, control.drain)
    await control.sleep(5)
    assert loop.time() == pytest.approx(7)
