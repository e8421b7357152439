"""The control of a search ends its runs, and a sample repeats its rows."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fanout import InputError
from fanout.engine import Stop, chunker_of
from fanout.io.readers.opening import open_source
from fanout.rows import single_rows
from fanout.tune import SearchControl
from fanout.tune.runner import read_sample


class Run:
    """Records its stops."""

    def __init__(self) -> None:
        self.stops: list[tuple[Stop, bool]] = []

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        self.stops.append((stop, cut))


def test_it_ends_the_run_under_way_and_not_those_before_it():
    control, earlier, current = SearchControl(), Run(), Run()
    control.next_run().attach(earlier)
    control.next_run().attach(current)
    control.drain("enough")
    control.cut("at once")
    assert earlier.stops == []
    assert current.stops == [(Stop("interrupted", "enough"), False), (Stop("interrupted", "at once"), True)]


def test_a_run_that_begins_after_the_end_was_asked_for_ends_at_once():
    control, late = SearchControl(), Run()
    assert not control.ended
    control.drain("interrupted by SIGINT")
    control.next_run().attach(late)
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


async def chunks(part, size, n):
    chunker = chunker_of(part, size)
    taken = [await chunker.get() for _ in range(n)]
    await chunker.close()
    return [[float(row) for row in single_rows(task.rows)] for task in taken]


async def test_rows_come_again_from_the_first_one_after_the_last(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    part = read_sample(open_source(tmp_path / "x.npy"))
    assert (part.length, part.uniform, part.n_rows) == (5, True, None)
    assert await chunks(part, 3, 4) == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    assert await chunks(part, 12, 1) == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]]


async def test_a_part_of_an_input_and_a_part_of_that(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100.0))
    part = read_sample(open_source(tmp_path / "x.npy").sliced(slice(10, 12)))
    assert await chunks(part, 3, 1) == [[10, 11, 10]]
    assert await chunks(part.sliced(slice(0, 4)), 3, 2) == [[10, 11, 10], [11]]


def test_no_more_than_64_mib_are_held(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((200, 2**17)))
    part = read_sample(open_source(tmp_path / "x.npy"))
    assert 60 <= part.length <= 70


def test_no_rows_are_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(0))
    with pytest.raises(InputError, match="no rows to send"):
        read_sample(open_source(tmp_path / "x.npy"))
